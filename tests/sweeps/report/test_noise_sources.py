import pytest
from tests.sweeps.report.example_runs import config_of

from symbreak.sweeps.report.noise_sources import NoiseSource, is_source_key, source_of
from symbreak.sweeps.run.record import settings

ORDERED = {"class_path": "symbreak.callbacks.OrderedDDPStrategy", "init_args": {"bucket_cap_mb": 25}}
DEFAULT = {"class_path": "pytorch_lightning.strategies.DDPStrategy", "init_args": {"process_group_backend": "gloo"}}
FSDP = {"class_path": "pytorch_lightning.strategies.FSDPStrategy"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, NoiseSource(0.0, ())),
        ({"noise": 1e-3}, NoiseSource(1e-3, ())),
        ({"ulps": 1.0}, NoiseSource(0.0, ("rounding noise 1 ulp",))),
        ({"ulps": 10.0}, NoiseSource(0.0, ("rounding noise 10 ulps",))),
        ({"dropout": 0.01, "noise": 0.1}, NoiseSource(0.1, ("dropout 1 %",))),
        ({"mode": "cudnn"}, NoiseSource(0.0, ("cudnn mode",))),
        (
            {"mode": "nondeterministic", "ulps": 2.0},
            NoiseSource(0.0, ("rounding noise 2 ulps", "nondeterministic mode")),
        ),
    ],
)
def test_sources_of_a_configuration(changes, expected):
    assert source_of(settings(config_of(**changes)), {}) == expected


@pytest.mark.parametrize(
    ("trainer", "label"),
    [
        ({"devices": 4, "strategy": "auto"}, "all-reduce over 4 ranks"),
        ({"devices": 2, "num_nodes": 3, "strategy": "ddp"}, "all-reduce over 6 ranks"),
        ({"devices": [0, 1, 2]}, "all-reduce over 3 ranks"),
        ({"devices": 2, "strategy": "ddp_find_unused_parameters_false"}, "all-reduce over 2 ranks"),
        ({"devices": 3, "strategy": DEFAULT}, "all-reduce over 3 ranks"),
        ({"devices": 2, "strategy": ORDERED}, "ordered all-reduce over 2 ranks"),
        ({"devices": 1, "strategy": ORDERED}, "none"),
        ({"devices": 2, "strategy": FSDP}, "FSDPStrategy over 2 ranks"),
        ({"devices": "auto"}, "none"),
        ({"devices": -1}, "none"),
        ({"precision": "64-true"}, "precision 64-true"),
        ({"precision": None}, "none"),
    ],
)
def test_trainers_bring_sources_too(trainer, label):
    assert source_of(settings({"trainer": trainer}), {}).label == label


def test_a_regulariser_and_a_perturbation_are_named():
    network = {"init_args": {"dropout": 0.01, "regularizer": "disout"}}
    change = {"kind": "bit", "scope": "weight", "bit": 0, "step": 0, "scale": 1e-3, "layers": []}
    source = source_of(settings({"model": network, "perturbation": change}), {})
    assert source.others == ("disout 1 %", "bit 0 of one weight at step 0")
    assert source_of(settings({"perturbation": change | {"kind": "none"}}), {}).label == "none"
    assert is_source_key("model.init_args.regularizer")
    assert is_source_key("perturbation.layers")


def test_the_world_size_that_a_run_noted_counts_where_the_configuration_leaves_it_open():
    config = settings({"trainer": {"devices": "auto", "strategy": ORDERED}})
    assert source_of(config, {"environment": {"world_size": 3}}).label == "ordered all-reduce over 3 ranks"
    assert source_of(config, {"environment": {"world_size": 1}}).label == "none"
    assert source_of(config, {"environment": None}).label == "none"


def test_source_keys():
    assert is_source_key("model.init_args.noise_scale")
    assert is_source_key("determinism.mode")
    assert is_source_key("trainer.strategy")
    assert is_source_key("trainer.strategy.init_args.bucket_cap_mb")
    assert not is_source_key("model.init_args.init")
