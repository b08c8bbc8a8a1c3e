import socket
import time
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage

from symbreak.sweeps.engine import study
from symbreak.sweeps.engine.study import Store
from symbreak.sweeps.search import sweep_file


@pytest.fixture
def make_store():
    storage = InMemoryStorage()

    def make(method="grid", cap=None, **form):
        content = {"method": method, "program": "p", "metric": {"name": "m"}, "run_cap": cap}
        form = form or {"values": [1, 2, 3]}
        return Store(sweep_file.parse(content | {"parameters": {"x": form}}, Path("s.yaml")), storage)

    return make


def work_off(callers):
    """Let callers claim and finish in turn until nothing is left; return what each point was."""
    claims = []
    while claimed := [claim for caller in callers if (claim := caller.claim())]:
        for caller in callers:
            caller.offer()
        claims += claimed
        for claim in claimed:
            callers[0].finish(claim, 1.0)
    return [(claim.point.number, claim.point.parameters["x"]) for claim in claims]


def test_seats_offered_twice_are_claimed_once(make_store, monkeypatch):
    first, second = make_store(), make_store()
    seen = second._trials()
    first.offer()
    monkeypatch.setattr(second, "_trials", lambda: seen)
    second.offer()
    monkeypatch.undo()
    assert len(first.study.get_trials()) == 6
    assert work_off([first, second]) == [(1, 1), (2, 2), (3, 3)]
    assert [row.status for row in first.rows()] == ["finished"] * 3


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_lost_point_comes_back_with_the_same_parameters(make_store, method):
    caller = make_store(method, 4, min=0.0, max=1.0)
    caller.offer()
    lost = caller.claim()
    caller.release(lost, killed=True)
    caller.offer()
    points = dict(work_off([caller]))
    assert sorted(points) == [1, 2, 3, 4]
    assert points[1] == lost.point.parameters["x"]
    assert len(set(points.values())) == 4


def test_sweep_without_cap_always_has_one_more_point(make_store):
    caller = make_store("random", None, min=0.0, max=1.0)
    assert caller.total is None
    for number in range(1, 6):
        caller.offer()
        claim = caller.claim()
        assert claim.point.number == number
        caller.finish(claim, None)


def test_points_of_a_silent_caller_elsewhere_are_offered_again(make_store, monkeypatch):
    caller, other = make_store(values=[1]), make_store(values=[1])
    other._owner[1] = "another-machine"
    other.offer()
    other.beat()
    other.claim()
    caller.beat()
    assert [row.status for row in caller.rows()] == ["running"]
    later = time.time() + study.SILENT_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    caller._last_beat = -study.HEARTBEAT_SECONDS
    caller.beat()
    caller.offer()
    assert caller.claim().point.parameters == {"x": 1}


def test_word_of_a_caller_taken_for_dead_does_not_count(make_store):
    caller, other = make_store(values=[1]), make_store(values=[1])
    other._owner = [other.caller, socket.gethostname(), 2**22 + 1, "1"]
    other.offer()
    claim = other.claim()
    caller.beat()
    other.finish(claim, 0.5)
    assert caller.rows() == []
    caller.offer()
    caller.finish(caller.claim(), 0.7)
    assert [(row.status, row.value) for row in caller.rows()] == [("finished", 0.7)]


def test_points_of_a_dead_process_here_are_offered_again_at_once(make_store):
    caller, other = make_store(values=[1]), make_store(values=[1])
    other._owner = [other.caller, socket.gethostname(), 2**22 + 1, "1"]
    other.offer()
    other.claim()
    caller.beat()
    caller.offer()
    assert caller.claim() is not None


def test_outcomes(make_store):
    caller = make_store(values=[1, 2, 3, 4, 5])
    caller.offer()
    finished, silent, pruned, failed, killed = (caller.claim() for _ in range(5))
    caller.finish(finished, 0.5)
    caller.finish(silent, None)
    caller.finish(pruned, 0.7, pruned=True)
    caller.fail(failed, "it broke\nbadly")
    for _ in range(study.ATTEMPTS):
        caller.release(killed, killed=True)
        caller.offer()
        killed = caller.claim() or killed
    rows = caller.rows()
    assert [row.status for row in rows] == ["finished", "finished", "pruned", "failed", "failed"]
    assert [row.value for row in rows] == [0.5, None, 0.7, None, None]
    assert (rows[3].error, rows[4].error) == ("it broke\nbadly", "its process was killed 10 times")
    assert caller.study.best_value == 0.5
    caller.offer(retry_failed=True)
    assert [row.status for row in caller.rows()][3:] == ["waiting", "waiting"]


def test_changed_search_space_is_refused(make_store):
    make_store("random", 2, min=0.0, max=1.0)
    with pytest.raises(ValueError, match=r"s\.yaml: parameters: differs"):
        make_store("random", 2, min=0.0, max=2.0)
