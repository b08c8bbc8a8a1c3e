import math
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from symbreak.lightning_modules import MixtureOfExperts, TransformerLM

SMALL: dict[str, Any] = {"num_classes": 11, "context": 8, "depth": 2, "width": 16, "num_heads": 2, "hidden": 24}


@pytest.fixture
def text():
    tokens = torch.arange(8 * 33).remainder(11).view(8, 33)
    windows = torch.cat([tokens[:, i : i + 9] for i in (0, 8, 16, 24)])
    return DataLoader(TensorDataset(windows[:, :-1], windows[:, 1:]), batch_size=8)


def test_logits_depend_on_earlier_tokens_alone():
    model = TransformerLM(**SMALL)
    tokens = torch.randint(11, (3, 8))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = model(tokens), model(changed)
    assert before.shape == (3, 8, 11)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_the_loss_starts_at_that_of_equal_chances_and_metrics_are_logged(make_trainer, memory_logger, text):
    model = TransformerLM(**SMALL)
    trainer = make_trainer(max_epochs=15, logger=memory_logger, log_every_n_steps=1)
    trainer.fit(model, text, text)
    logged = {key: value for _, row in memory_logger.rows for key, value in row.items()}
    first = next(row["train/loss"] for _, row in memory_logger.rows if "train/loss" in row)
    assert first == pytest.approx(math.log(11), abs=0.1)
    assert logged["val/loss"] < 1.0
    assert logged["val/perplexity"] == pytest.approx(math.exp(logged["val/loss"]), rel=1e-3)
    assert {"train/accuracy", "val/accuracy"} <= logged.keys()


@pytest.mark.parametrize("grow", ["widen", "upcycle"])
def test_growing_during_training_trains_the_new_parameters(make_trainer, text, grow):
    model = TransformerLM(**SMALL, grow=grow, grow_step=2)
    trainer = make_trainer(max_steps=4)
    trainer.fit(model, text)
    block = model.get_submodule("blocks.0.feed_forward")
    if grow == "widen":
        assert block.get_submodule("0").out_features == 48
    else:
        assert isinstance(block, MixtureOfExperts)
    trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters()}
    assert all(p in trainer.optimizers[0].state for p in model.parameters())


def test_widened_copies_with_even_shares_stay_equal(make_trainer, text):
    wide: dict[str, Any] = SMALL | {"hidden": 32}
    model = TransformerLM(**wide, grow="widen", grow_step=1)
    make_trainer(max_steps=8).fit(model, text)
    weight = model.get_submodule("blocks.0.feed_forward.0").get_parameter("weight")
    assert torch.equal(weight[:32], weight[32:])


def test_the_balance_loss_reaches_the_router(make_trainer, text):
    model = TransformerLM(**SMALL, experts=4, top_k=1, balance=1.0)
    tokens, targets = next(iter(text))
    loss = model.training_step((tokens, targets))
    loss.backward()
    gradient = model.get_submodule("blocks.0.feed_forward.router").get_parameter("weight").grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 15}, "multiple of num_heads=2"),
        ({"heads": "some"}, "heads='some'"),
        ({"depth": 0}, "depth=0"),
        ({"experts": 2, "grow": "upcycle"}, "needs dense"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransformerLM(**(SMALL | arguments))


@pytest.mark.parametrize("grow", ["widen", "upcycle"])
def test_a_grown_network_loads_its_checkpoint(make_trainer, text, tmp_path, grow):
    model = TransformerLM(**SMALL, grow=grow, grow_step=1)
    trainer = make_trainer(max_steps=2)
    trainer.fit(model, text)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = TransformerLM(**SMALL, grow=grow, grow_step=1)
    make_trainer(max_steps=3).fit(again, text, ckpt_path=str(tmp_path / "a.ckpt"))
    assert {name: p.shape for name, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
