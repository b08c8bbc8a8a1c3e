import json
import sys

import pytest
import torch
from tests.sweeps.run.spies import Spy

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.command import main
from symbreak.sweeps.run.seeds import SOURCES

SMALL = [
    "fit",
    "--config=sweeps/configs/digits.yaml",
    "--trainer.callbacks=tests.sweeps.run.spies.Spy",
    "--model.init_args.depth=7",
    "--model.init_args.init=he",
    "--model.init_args.dropout=0.5",
    "--data.init_args.crop_padding=1",
    "--data.init_args.batch_size=32",
    "--rounding_noise.ulps=1",
    "--trainer.max_steps=2",
    "--run.test=false",
]


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Return a function that fits and returns what each source gave, and the run's folder."""

    def run(*options):
        path = tmp_path_factory.mktemp("runs") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["symbreak"])
            patch.setenv("WANDB_MODE", "disabled")
            patch.setenv("SYMBREAK_RUN_DIR", str(path))
            assert main([*SMALL, f"--run.dir={path}", *options]) == 0
        return dict(Spy.seen), path

    return run


@pytest.fixture(scope="module")
def base(fit):
    return fit()[0]


@pytest.mark.parametrize("source", SOURCES)
def test_one_seed_changes_its_source_and_no_bit_of_another(source, fit, base):
    changed, path = fit(f"--seeds.{source}=7")
    assert not torch.equal(changed[source], base[source])
    for other in {*SOURCES} - {source}:
        assert torch.equal(changed[other], base[other]), other
    seeds = json.loads((path / "run.json").read_text())["seeds"]
    assert torch.equal(changed["images"], base["images"]) == (source not in ("order", "augmentation"))
    assert seeds == dict.fromkeys(SOURCES, 0) | {source: 7}


def test_a_resumed_run_goes_on_with_the_seeds_streams(fit, tmp_path):
    options = [f"--seeds.{source}={seed}" for seed, source in enumerate(SOURCES, 5)]
    whole = fit(*options, "--trainer.max_steps=6")[1]
    first = fit(*options, "--trainer.max_steps=6", "--exact_resume.every_n_steps=3")[1]
    resumed = fit(*options, "--trainer.max_steps=6", f"--ckpt_path={first / 'checkpoints' / 'resume.ckpt'}")[1]
    ends = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_negative_seed_is_refused(fit):
    with pytest.raises(UsageError, match=r"order.*-1"):
        fit("--seeds.order=-1")
