"""Sweeps on a simulated Ray cluster, which all tests of this file share."""

import json
import os
import time

import pytest

from symbreak.sweeps.errors import UsageError

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    os.environ.update(RAY_worker_niceness="0")  # Ray's own value lets every other test go first
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def on(cluster, **options):
    return {"executor": "ray", "ray_address": cluster.address, "workers": None} | options


def statuses(stubs):
    notes = [json.loads(path.read_text())["attempts"] for path in sorted(stubs.runs.glob("0*/attempts.json"))]
    return [attempt["status"] for note in notes for attempt in note]


def test_every_point_runs_once_and_a_killed_one_again(stubs, cluster):
    stubs.write({"die": {"values": ["once", "never"]}, "fail": {"values": [False, True]}})
    assert stubs.run(**on(cluster)) == 1
    assert sorted(statuses(stubs)) == ["failed", "failed", "finished", "finished", "interrupted"]
    note = json.loads((stubs.runs / "002-die=once_fail=true" / "attempts.json").read_text())["attempts"][0]
    assert note["error"] == "the run gave up"
    assert len(stubs.starts()) == 5


def test_an_interrupt_stops_the_runs_and_the_next_call_goes_on(stubs, cluster):
    stubs.write({"x": {"values": [1, 2]}, "seconds": {"value": 3.0}})
    driver = stubs.in_background(**on(cluster, workers=1))
    stubs.wait_for_starts(1)
    time.sleep(0.5)
    driver.terminate()
    output = driver.communicate(timeout=120)[0]
    assert driver.returncode == 143, output
    assert statuses(stubs) == ["interrupted"]
    stubs.write({"x": {"values": [1, 2]}, "seconds": {"value": 0.0}})
    assert stubs.run(**on(cluster)) == 0


def test_a_machine_that_does_not_see_the_folder_is_named(stubs, cluster, monkeypatch):
    from symbreak.sweeps.engine import ray_cluster

    monkeypatch.setattr(ray_cluster, "_sees", lambda path: False)
    with pytest.raises(UsageError, match=r"cannot see .*/runs/stubs; give an --output on shared storage"):
        stubs.write({"x": {"value": 1}}).run(**on(cluster))
    assert stubs.starts() == []
    assert [path.name for path in stubs.runs.glob(".probe*")] == []


@pytest.mark.parametrize(("options", "need"), [({"cpus_per_run": 99}, "99 CPUs"), ({"gpus_per_run": 1}, "1 GPUs")])
def test_a_run_that_no_machine_can_hold_is_refused(stubs, cluster, options, need):
    with pytest.raises(UsageError, match=need):
        stubs.write({"x": {"value": 1}}).run(**on(cluster, **options))


def test_runs_of_a_machine_that_leaves_go_on_elsewhere(stubs, cluster):
    """Last in this file: a cluster notices only after a while that a machine has left."""
    node = cluster.add_node(num_cpus=1)
    stubs.write({"x": {"values": list(range(6))}, "seconds": {"value": 0.7}})
    driver = stubs.in_background(**on(cluster))
    stubs.wait_for_starts(3)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    output = driver.communicate(timeout=120)[0]
    assert driver.returncode == 0, output
    assert statuses(stubs).count("finished") == 6
    assert statuses(stubs).count("failed") == 0
