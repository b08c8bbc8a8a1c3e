from tests.sweeps.report.example_runs import config_of

from symbreak.sweeps.report.arms import arm_labels, describe, readable, short_names, varying_keys
from symbreak.sweeps.run.record import settings


def test_seeds_and_bookkeeping_do_not_make_arms():
    configs = [settings(config_of(seed=seed)) | {"run.dir": f"runs/{seed}", "seeds.init": seed} for seed in range(3)]
    assert varying_keys(configs) == []
    assert arm_labels(configs, [None] * 3) == ["all runs"] * 3


def test_callbacks_tell_arms_apart():
    kinds = [("LotteryTicket", {"mask": mask}) for mask in ("magnitude", "random")]
    lists = [[{"class_path": f"symbreak.callbacks.{name}", "init_args": given}] for name, given in kinds]
    lists += [[*each, {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "a"}}] for each in lists]
    configs = [settings({"trainer": {"callbacks": callbacks}}) for callbacks in [*lists, None]]
    assert arm_labels(configs, [None] * 5) == ["mask=magnitude", "mask=random"] * 2 + ["all runs"]
    twice = [settings({"trainer": {"callbacks": [lists[0][0], each]}}) for each in (lists[0][0], lists[1][0])]
    assert len(set(arm_labels(twice, [None, None]))) == 2


def test_the_sweeps_own_label_is_kept_where_it_names_a_group():
    configs = [settings(config_of(seed=seed, noise=noise)) for noise in (0.0, 1e-3) for seed in (0, 1)]
    assert arm_labels(configs, ["zero", "zero", "noisy", "noisy"]) == ["zero", "zero", "noisy", "noisy"]


def test_seeds_are_taken_out_of_a_given_label():
    configs = [settings(config_of(seed=seed, noise=noise)) for noise in (0.0, 1e-3) for seed in (0, 1)]
    given = ["zero, seed_everything=0", "zero, seed_everything=1", "data.seed=0, noisy", "data.seed=1, noisy"]
    assert arm_labels(configs, given) == ["zero", "zero", "noisy", "noisy"]


def test_a_label_that_two_groups_share_gives_way_to_their_values():
    configs = [settings(config_of(noise=noise)) for noise in (1e-8, 1e-3)]
    assert arm_labels(configs, ["same", "same"]) == ["noise_scale=1e-8", "noise_scale=0.001"]


def test_sources_that_are_off_are_left_out_unless_nothing_is_left():
    keys = ["model.init_args.noise_scale", "rounding_noise.ulps", "model.init_args.depth"]
    config = {keys[0]: 0.0, keys[1]: 10.0, keys[2]: 0}
    assert describe(config, keys) == "ulps=10, depth=0"
    assert describe(config | {keys[1]: 0.0}, keys[:2]) == "noise_scale=0, ulps=0"


def test_short_names_stay_distinct():
    keys = ["model.init_args.depth", "data.init_args.seed", "rounding_noise.seed"]
    assert list(short_names(keys).values()) == ["depth", "data.seed", "rounding_noise.seed"]


def test_readable_values():
    values = [1e-8, 1e20, 0.03, "symbreak.datamodules.DigitsDataModule", True, "1_iiii", "a.b c", [1]]
    assert [readable(value) for value in values] == [
        "1e-8",
        "1e20",
        "0.03",
        "DigitsDataModule",
        "True",
        "1_iiii",
        "a.b c",
        "[1]",
    ]


def test_a_sources_own_seed_tells_arms_apart_by_being_fixed_alone():
    fixed = [{"seeds.dropout": seed, "seed_everything": 0, "rounding_noise.ulps": 0} for seed in (0, 1, None)]
    assert arm_labels(fixed, [None] * 3) == ["dropout=fixed", "dropout=fixed", "all runs"]


def test_a_perturbation_that_is_not_made_is_not_named():
    configs = [
        {"perturbation.kind": kind, "perturbation.step": step, "a": step} for kind, step in (("none", 0), ("bit", 3))
    ]
    assert arm_labels(configs, [None] * 2) == ["a=0", "kind=bit, step=3, a=3"]
