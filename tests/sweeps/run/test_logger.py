import csv
import json

import pytest

from symbreak.sweeps.run import logger as module
from symbreak.sweeps.run.logger import RunLogger
from symbreak.sweeps.run.resume import Origin


def rows(path):
    with (path / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def state(path):
    return json.loads((path / "run.json").read_text())


def test_history_summary_and_state(tmp_path):
    logger = RunLogger(tmp_path)
    with logger.run():
        assert state(tmp_path)["status"] == "running"
        logger.log_hyperparams({"determinism/cudnn_benchmark": False, "depth": 10})
        logger.log_metrics({"a": 1.0}, step=0)
        logger.log_metrics({"a": 2.0, "b": float("nan")}, step=1)
    assert [row["a"] for row in rows(tmp_path)] == [1.0, 2.0]
    assert json.loads((tmp_path / "summary.json").read_text()) == {"a": 2.0, "b": None, "step": 1}
    assert state(tmp_path)["status"] == "finished"
    assert state(tmp_path)["determinism"] == {"cudnn_benchmark": False}


def interrupt():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise SystemExit(1)  # noqa: B904  as Lightning does on Ctrl-C


def preempt():
    raise SystemExit(143)


def fail():
    raise ArithmeticError("no")


@pytest.mark.parametrize(
    ("accident", "status", "raised", "code"),
    [
        (interrupt, "interrupted", SystemExit, 130),
        (preempt, "preempted", SystemExit, 143),
        (fail, "failed", ArithmeticError, None),
    ],
)
def test_how_a_run_ended(accident, status, raised, code, tmp_path):
    logger = RunLogger(tmp_path)

    def run():
        with logger.run():
            logger.log_metrics({"a": 1.0}, step=0)
            accident()

    with pytest.raises(raised) as caught:
        run()
    assert getattr(caught.value, "code", None) == code
    assert state(tmp_path)["status"] == status
    assert rows(tmp_path) == [{"a": 1.0, "step": 0.0}]


def test_a_resumed_history_drops_what_will_be_logged_again(tmp_path):
    first = RunLogger(tmp_path)
    with first.run():
        for step in range(6):
            first.log_metrics({"a": float(step)}, step=step)
            first.log_metrics({"val/loss": float(step)}, step=step)
    second = RunLogger(tmp_path, Origin(tmp_path / "checkpoints" / "last.ckpt", {"global_step": 3}))
    with second.run():
        second.log_metrics({"a": 30.0, "new": 1.0}, step=3)
    kept = rows(tmp_path)
    assert [row["a"] for row in kept if "a" in row] == [0, 1, 2, 30]
    assert [row["val/loss"] for row in kept if "val/loss" in row] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "summary.json").read_text())["val/loss"] == 3


def test_writing_takes_a_bounded_share_of_the_time(tmp_path, monkeypatch):
    now, writes = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "write_json", lambda path, _: writes.append(now[0]) or now.__setitem__(0, now[0] + 5))
    logger = RunLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, step=0)
    while now[0] < 2000:
        now[0] += 0.5
        logger.save()
    assert len(writes) == 4  # 5 seconds each
    assert 5 * len(writes) / now[0] <= 1.05 * module.WRITING_SHARE
