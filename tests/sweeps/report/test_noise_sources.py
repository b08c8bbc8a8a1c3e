import pytest
from tests.sweeps.report.example_runs import config_of

from symbreak.sweeps.report.noise_sources import Source, is_source_key, source_of
from symbreak.sweeps.run.record import settings


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Source(0.0, ())),
        ({"noise": 1e-3}, Source(1e-3, ())),
        ({"ulps": 1.0}, Source(0.0, ("rounding noise 1 ulp",))),
        ({"ulps": 10.0}, Source(0.0, ("rounding noise 10 ulps",))),
        ({"dropout": 0.01, "noise": 0.1}, Source(0.1, ("dropout 1 %",))),
        ({"mode": "cudnn"}, Source(0.0, ("cudnn mode",))),
        ({"mode": "nondeterministic", "ulps": 2.0}, Source(0.0, ("rounding noise 2 ulps", "nondeterministic mode"))),
    ],
)
def test_sources_of_a_configuration(changes, expected):
    assert source_of(settings(config_of(**changes))) == expected


@pytest.mark.parametrize(
    ("trainer", "label"),
    [
        ({"devices": 4}, "all-reduce over 4 ranks"),
        ({"devices": 2, "num_nodes": 3}, "all-reduce over 6 ranks"),
        ({"devices": [0, 1, 2]}, "all-reduce over 3 ranks"),
        (
            {"devices": 2, "strategy": {"hook": "symbreak.callbacks.ordered_all_reduce"}},
            "ordered all-reduce over 2 ranks",
        ),
        ({"devices": "auto"}, "none"),
        ({"devices": -1}, "none"),
        ({"precision": "64-true"}, "precision 64-true"),
        ({"precision": None}, "none"),
    ],
)
def test_trainers_bring_sources_too(trainer, label):
    assert source_of(settings({"trainer": trainer})).label == label


def test_source_keys():
    assert is_source_key("model.init_args.noise_scale")
    assert is_source_key("determinism.mode")
    assert not is_source_key("model.init_args.init")
