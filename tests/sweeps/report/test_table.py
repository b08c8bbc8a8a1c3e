import re
from pathlib import Path

import pandas as pd
import pytest
from tests.sweeps.report.example_runs import ARMS, LAYERS, config_of, write_run

from symbreak.callbacks import RankTrajectory
from symbreak.sweeps.report.table import RunReader, find_runs, load_runs, save, tabulate
from symbreak.sweeps.run.record import Skipped
from symbreak.sweeps.search.check import DOCUMENTED_KEY, logged_keys


def test_one_row_per_run_and_one_history_row_per_step(sweep_table):
    assert sweep_table.arms == list(ARMS)
    assert sweep_table.runs["arm"].value_counts().tolist() == [2] * len(ARMS)
    assert sweep_table.runs["seed"].tolist() == [0, 1] * len(ARMS)
    assert len(sweep_table.history) == 2 * len(ARMS) * 121
    assert not sweep_table.history.duplicated(["run", "step"]).any()
    assert sweep_table.varying == [
        "model.init_args.dropout",
        "model.init_args.init",
        "model.init_args.noise_scale",
        "rounding_noise.ulps",
    ]


def test_series_and_layers(sweep_table):
    assert sweep_table.layers("symmetry/distinct_filters") == [*LAYERS, "head"]
    series = sweep_table.series("val/accuracy")
    assert set(series["step"]) == set(range(50, 601, 50))
    assert series["value"].notna().all()
    assert (series["arm"] == sweep_table.runs["arm"].to_numpy()[series["run"]]).all()
    assert not sweep_table.has("no/such_key")


def test_finds_runs_at_any_depth_once_and_in_natural_order(tmp_path):
    for name in ("10-b", "2-a", "1-c"):
        folder = write_run(tmp_path / "sweep" / name, config_of(), 20)
        write_run(folder / "wandb" / "inner", config_of(), 20)
    found = find_runs([tmp_path, tmp_path / "sweep" / "2-a"])
    assert [path.name for path in found] == ["1-c", "2-a", "10-b"]


def test_a_path_that_is_no_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        find_runs([tmp_path / "nowhere"])


def test_broken_runs_do_not_lose_the_others(tmp_path):
    write_run(tmp_path / "1-good", config_of(), 20)
    write_run(tmp_path / "2-failed", config_of(), 20, status="failed", error="boom")
    (write_run(tmp_path / "3-broken", config_of(), 20) / "config.yaml").write_text("a: [")
    (tmp_path / "4-started").mkdir()
    (tmp_path / "4-started" / "point.json").write_text("{}")
    table = load_runs([tmp_path])
    assert table.runs["run"].tolist() == ["1-good"]
    assert [skipped.name for skipped in table.skipped] == ["2-failed", "3-broken", "4-started"]


def test_finished_runs_of_an_arm_outweigh_unfinished_ones(tmp_path):
    write_run(tmp_path / "1", config_of(0), 600)
    write_run(tmp_path / "2", config_of(1), 50, status="interrupted")
    write_run(tmp_path / "3", config_of(0, noise=0.1), 100, status="interrupted")
    final = load_runs([tmp_path]).final("val/accuracy")
    assert final.notna().tolist() == [True, False, True]


def test_unchanged_folders_are_not_read_again(tmp_path):
    first = write_run(tmp_path / "1", config_of(0), 20)
    write_run(tmp_path / "2", config_of(1), 20)
    seen = []
    reader = RunReader(lambda folder: seen.append(folder.name) or Skipped(folder.name, "", "test"))
    reader.read([tmp_path])
    reader.read([tmp_path])
    assert seen == ["1", "2"]
    (first / "metrics.csv").write_text("step,a\n1,2\n")
    reader.read([tmp_path])
    assert seen == ["1", "2", "1"]


def test_no_runs_make_an_empty_table():
    table = tabulate([Skipped("a", "b", "c")])
    assert table.arms == []
    assert table.runs.empty
    assert table.history.empty


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_saved_tables_hold_what_was_loaded(sweep_table, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    runs, history = (read(path) for path in save(sweep_table, tmp_path / f"table{suffix}"))
    assert runs["run"].tolist() == sweep_table.runs["run"].tolist()
    assert history.shape == sweep_table.history.shape
    assert history["train/loss"].sum() == pytest.approx(sweep_table.history["train/loss"].sum())
    assert set(history["run"]) == set(runs["run"])


def test_an_unknown_suffix_is_refused(sweep_table, tmp_path):
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        save(sweep_table, tmp_path / "table.xls")


def test_sweep_files_name_keys_that_runs_log(real_table):
    keys = {"/".join(str(key).split("/")[:2]) for key in real_table.history if "/" in str(key)}
    keys |= {*logged_keys(), *DOCUMENTED_KEY.findall(str(RankTrajectory.__doc__))}
    families = "|".join(sorted({key.split("/")[0] for key in keys}))
    paths = sorted(Path("sweeps").glob("*.yaml"))
    named = {(path.name, key) for path in paths for key in re.findall(rf"\b(?:{families})/[a-z_]+", path.read_text())}
    assert len(named) > 10
    assert {(name, key) for name, key in named if key not in keys} == set()


def test_settings_are_those_of_the_configuration(real_table):
    config = real_table.configs[real_table.runs["run"].tolist().index("8-ranks")]
    assert str(config["trainer.devices"]) == "2"
    assert config["trainer.precision"] is None
    assert config["trainer.strategy.class_path"] == "symbreak.callbacks.OrderedDDPStrategy"
