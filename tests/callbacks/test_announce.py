import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import WandbLogger
from tests.callbacks.test_stop_at_level import Kicked
from tests.callbacks.training import train

from symbreak.callbacks import SymmetryBreaking
from symbreak.callbacks.announce import announce


class Run:
    """What is used of a W&B run."""

    def __init__(self, offline):
        self.offline, self.disabled, self.alerts, self.summary = offline, False, [], {}

    def alert(self, title, text):
        self.alerts.append((title, text))


def wandb_logger(monkeypatch, offline=False):
    logger, run = WandbLogger(), Run(offline)
    monkeypatch.setattr(WandbLogger, "experiment", property(lambda self: run))
    return logger, run


def trainer(**attributes):
    defaults: dict[str, Any] = {"is_global_zero": True, "progress_bar_callback": None, "loggers": []}
    return cast(Trainer, SimpleNamespace(**defaults | attributes))


def test_a_line_goes_to_the_log_where_no_bar_is_drawn(caplog):
    with caplog.at_level(logging.INFO):
        announce(trainer(), "title", "no bar")
        announce(trainer(progress_bar_callback=TQDMProgressBar()), "title", "a bar that is not drawn")
        announce(trainer(is_global_zero=False), "title", "nobody's line")
    assert [record.getMessage() for record in caplog.records] == ["no bar", "a bar that is not drawn"]


@pytest.mark.parametrize(("log_every_n_steps", "refresh_rate", "by_bar"), [(1, 1, True), (50, 1, False), (1, 0, False)])
def test_the_event_is_told_by_the_bar_while_it_is_open_and_by_the_log_after(
    capsys, caplog, log_every_n_steps, refresh_rate, by_bar
):
    callbacks = [TQDMProgressBar(refresh_rate=refresh_rate), SymmetryBreaking(every_n_steps=1)]
    with caplog.at_level(logging.INFO):
        train(Kicked(), callbacks, steps=8, enable_progress_bar=True, log_every_n_steps=log_every_n_steps)
    sentence = "symmetry broke at step 3"
    assert (sentence in capsys.readouterr().out) == by_bar
    assert any(sentence in record.getMessage() for record in caplog.records) != by_bar


@pytest.mark.parametrize(("offline", "alerts"), [(False, [("title", "text")]), (True, [])])
def test_only_an_online_run_is_alerted(monkeypatch, offline, alerts):
    logger, run = wandb_logger(monkeypatch, offline)
    announce(trainer(loggers=[logger]), "title", "text")
    assert run.alerts == alerts


def test_breaking_is_announced_once_and_reaches_the_summary(monkeypatch, caplog):
    logger, run = wandb_logger(monkeypatch)
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda *args: None)
    monkeypatch.setattr(WandbLogger, "log_hyperparams", lambda *args: None)
    monkeypatch.setattr(WandbLogger, "save_dir", ".")
    with caplog.at_level(logging.INFO):
        train(Kicked(), [SymmetryBreaking(every_n_steps=1)], steps=8, logger=logger)
    sentence = "symmetry broke at step 3: filters differ in network.0"
    assert [text for title, text in run.alerts if title == "Symmetry broke"] == [sentence]
    assert sum(sentence in record.getMessage() for record in caplog.records) == 1
    assert [title for title, _ in run.alerts] == ["Symmetry broke", "Features escaped"]
    never = dict.fromkeys(f"symmetry/{name}" for name in ("growth_rate", "diverged_step", "epochs_to_break"))
    assert run.summary == {"symmetry/broken_step": 3, "symmetry/escape_step": 3, **never}


def test_a_network_that_starts_out_different_is_no_event(monkeypatch):
    logger, run = wandb_logger(monkeypatch)
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda *args: None)
    monkeypatch.setattr(WandbLogger, "log_hyperparams", lambda *args: None)
    monkeypatch.setattr(WandbLogger, "save_dir", ".")
    module = Kicked()
    module.network[0].reset_parameters()
    train(module, [SymmetryBreaking(every_n_steps=1)], steps=5, logger=logger)
    assert run.alerts == []
    assert run.summary["symmetry/broken_step"] == 0
