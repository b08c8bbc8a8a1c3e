import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from symbreak.callbacks import Determinism, determinism_mode, determinism_state
from symbreak.callbacks.determinism import mode_switches
from symbreak.callbacks.modes import Mode
from symbreak.callbacks.plugins import driver_version, environment
from symbreak.callbacks.plugins.environment import DISPATCH
from symbreak.callbacks.precision import exact_products

MODES: list[Mode] = ["nondeterministic", "cudnn", "strict"]


class Probe(LightningModule):
    """Notes the switches inside a training step."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.seen = None

    def training_step(self, batch):
        self.seen = determinism_state()
        return self.linear(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, callbacks, **kwargs):
    options = {"max_steps": 1, "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", callbacks=callbacks, **(options | kwargs))


def loader():
    return DataLoader(TensorDataset(torch.arange(24.0).reshape(8, 3)), batch_size=4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lightning_flag", [None, True])
def test_the_state_inside_a_training_step_is_the_modes_and_is_restored(mode, lightning_flag, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with determinism_mode("cudnn"):
        module, run = Probe(), trainer(tmp_path, [Determinism(mode)], deterministic=lightning_flag)
        before = determinism_state()
        run.fit(module, loader())
        assert module.seen == mode_switches(mode)
        assert determinism_state() == before


def test_the_design_table():
    table = {mode: tuple(mode_switches(mode).values()) for mode in MODES}
    assert table == {
        "nondeterministic": (False, True, False, None, False, "highest"),
        "cudnn": (True, False, False, None, False, "highest"),
        "strict": (True, False, True, ":4096:8", False, "highest"),
    }
    assert mode_switches("strict", allow_tf32=True)["float32_matmul_precision"] == "high"


def test_the_state_is_restored_after_an_exception(tmp_path):
    module = Probe()
    module.training_step = lambda batch: 1 / 0
    before = determinism_state()
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, [Determinism("strict")]).fit(module, loader())
    assert determinism_state() == before


def test_an_overridden_workspace_and_a_later_change_are_named(tmp_path, monkeypatch):
    class Meddler(Probe):
        def on_fit_start(self):
            torch.backends.cudnn.benchmark = True

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with pytest.warns(UserWarning, match="is replaced by :4096:8") as caught:
        trainer(tmp_path, [Determinism("strict")]).fit(Meddler(), loader())
    messages = [str(warning.message) for warning in caught]
    assert any("cublas_workspace_config=:16:8" in message for message in messages)
    assert any("cudnn_benchmark is True" in message for message in messages)


@pytest.mark.parametrize(
    ("mode", "options", "replaced"),
    [
        ("strict", {"benchmark": True}, "cudnn_benchmark=True"),
        ("cudnn", {"deterministic": True}, "deterministic_algorithms=True"),
    ],
)
def test_options_of_the_trainer_that_a_mode_replaces_are_named(tmp_path, monkeypatch, mode, options, replaced):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with determinism_mode("nondeterministic"):
        torch.backends.cudnn.benchmark = False
        fitting = trainer(tmp_path, [Determinism(mode)], **options)
        with pytest.warns(UserWarning, match="is replaced by") as caught:
            fitting.fit(Probe(), loader())
    messages = [str(warning.message) for warning in caught]
    assert any(message.startswith(replaced) for message in messages)
    assert any("NVIDIA_TF32_OVERRIDE=0 overrules allow_tf32=False" in message for message in messages)


def test_a_mode_that_replaces_nothing_but_defaults_is_silent(tmp_path, recwarn, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    trainer(tmp_path, [Determinism("strict")]).fit(Probe(), loader())
    assert not [warning for warning in recwarn if "is replaced by" in str(warning.message)]


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build", "550.54.15"),
        ("nothing here", None),
    ],
)
def test_the_driver_version_in_both_of_its_reports(line, version):
    assert driver_version(line) == version


def test_switches_and_versions_reach_every_logger(tmp_path):
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, [Determinism("strict")], logger=logger).fit(Probe(), loader())
    hparams = logger.experiment.hparams
    assert hparams["determinism/deterministic_algorithms"] is True
    assert hparams["environment/torch"] == torch.__version__
    assert hparams["environment/world_size"] == 1


def test_unknown_mode_names_the_allowed_ones():
    with pytest.raises(ValueError, match="'fast' is unknown; allowed: nondeterministic, cudnn, strict"):
        Determinism("fast")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="the switches came with torch 2.9")
def test_the_newer_precision_switches_are_read_and_given_back(precision):
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = matmul.fp32_precision, conv.fp32_precision
    try:
        matmul.fp32_precision = conv.fp32_precision = precision
        state = determinism_state()
        assert state["float32_matmul_precision"] == ("high" if precision == "tf32" else "highest")
        assert state["cudnn_allow_tf32"] is (precision == "tf32")
        with determinism_mode("strict"):
            assert determinism_state() == mode_switches("strict")
        assert (matmul.fp32_precision, conv.fp32_precision) == (precision, precision)
        assert determinism_state() == state
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


@pytest.mark.parametrize("precision", ["high", "medium", "highest"])
def test_products_of_the_measures_are_exact_whatever_training_allows(precision):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with exact_products():
            assert torch.backends.cuda.matmul.allow_tf32 is False
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_environment_names_the_kernels_that_a_user_chose(monkeypatch):
    for name in DISPATCH:
        monkeypatch.delenv(name, raising=False)
    assert environment()["cpu_dispatch"] is None
    monkeypatch.setenv("MKL_ENABLE_INSTRUCTIONS", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert environment()["cpu_dispatch"] == "ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=AVX2"
