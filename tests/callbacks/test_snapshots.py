import numpy as np
import pytest
import torch
from tests.callbacks.training import train
from torch import nn

from symbreak.callbacks import Snapshots
from symbreak.callbacks.snapshot_files import LOGITS, snapshot_steps
from symbreak.datamodules import DigitsDataModule
from symbreak.lightning_modules import MLP


def fit(folder, steps=9, ckpt_path=None, seen=None, **options):
    class Noting(MLP):
        def training_step(self, batch):
            if seen is not None:
                seen[self.global_step] = {name: value.clone() for name, value in self.state_dict().items()}
            return super().training_step(batch)

    torch.manual_seed(0)
    module = Noting(depth=2, width=4, in_channels=1, init="he")
    data = DigitsDataModule(batch_size=64, seed=0)
    trainer, _ = train(module, [Snapshots(dirpath=str(folder), **options)], steps, data, ckpt_path)
    return trainer, module, data


def test_snapshots_are_the_weights_before_their_step_and_the_last_ones(tmp_path):
    seen = {}
    _, module, _ = fit(tmp_path, per_doubling=1, seen=seen)
    seen[9] = module.state_dict()
    files = snapshot_steps(tmp_path)
    assert list(files) == [0, 1, 3, 7, 9]
    for step, path in files.items():
        state = torch.load(path, weights_only=True)
        assert state.keys() == seen[step].keys()
        assert all(torch.equal(state[name], seen[step][name]) for name in state), step


def test_a_fixed_distance_and_none(tmp_path):
    fit(tmp_path / "fixed", every_n_steps=4)
    assert list(snapshot_steps(tmp_path / "fixed")) == [0, 4, 8, 9]
    fit(tmp_path / "none")
    assert snapshot_steps(tmp_path / "none") == {}


def test_a_resumed_run_keeps_the_schedule_and_the_files_there_are(tmp_path):
    trainer, _, _ = fit(tmp_path, steps=5, per_doubling=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stamps = {path: path.stat().st_mtime_ns for path in snapshot_steps(tmp_path).values()}
    fit(tmp_path, steps=9, per_doubling=1, ckpt_path=tmp_path / "a.ckpt")
    assert list(snapshot_steps(tmp_path)) == [0, 1, 3, 5, 7, 9]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_the_logits_of_the_test_set_are_kept(tmp_path):
    trainer, module, data = fit(tmp_path)
    trainer.test(module, datamodule=data, verbose=False)
    kept = np.load(tmp_path / LOGITS, allow_pickle=False)
    with torch.no_grad():
        batches = [(module.eval()(images), labels) for images, labels in data.test_dataloader()]
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert kept["logits"].dtype == np.float16
    np.testing.assert_array_equal(kept["logits"], logits.half().numpy())
    np.testing.assert_array_equal(kept["predictions"], logits.argmax(1).numpy())
    np.testing.assert_array_equal(kept["labels"], labels.numpy())
    assert trainer.callback_metrics["test/accuracy"].item() == pytest.approx(
        (kept["predictions"] == kept["labels"]).mean()
    )
    assert not module._forward_hooks
    assert [path.name for path in tmp_path.iterdir()] == [LOGITS]


def test_logits_can_be_left_out_and_snapshots_change_no_bit(tmp_path):
    trainer, module, data = fit(tmp_path / "off", test_logits=False)
    trainer.test(module, datamodule=data, verbose=False)
    assert not (tmp_path / "off").exists()
    _, other, _ = fit(tmp_path / "on", per_doubling=4)
    assert torch.equal(
        nn.utils.parameters_to_vector(module.parameters()), nn.utils.parameters_to_vector(other.parameters())
    )


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="per_doubling must be 0"):
        Snapshots(per_doubling=-1)
