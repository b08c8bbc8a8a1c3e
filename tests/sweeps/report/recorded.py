"""The table of runs of a record of the repository."""

import json
from pathlib import Path

import pandas as pd

from symbreak.sweeps.report.table import RunTable
from symbreak.sweeps.run.outcome import outcome_of
from symbreak.sweeps.run.record import Run

RESULTS = Path(__file__).parents[3] / "sweeps" / "results"


def recorded(name: str) -> RunTable:
    """Return the runs of a record, with the settings that they share, and their thinned history."""
    runs = pd.read_csv(RESULTS / name / "runs.csv")
    settings = json.loads((RESULTS / name / "provenance.json").read_text())["settings"]
    rows = [{str(key): value for key, value in row.items() if pd.notna(value)} for row in runs.to_dict("records")]
    long = pd.read_csv(RESULTS / name / "history.csv.gz")
    history = long.pivot(index=["run", "step"], columns="key", values="value").reset_index()
    number = {run: index for index, run in enumerate(runs["run"])}
    return RunTable(
        runs,
        history.assign(run=history["run"].map(number)),
        configs=[settings | {key: row[key] for key in row if "." in key and "/" not in key} for row in rows],
        meta=[{} for _ in rows],
        outcomes=[
            outcome_of(Run(row["run"], "", row["status"], {}, row, pd.DataFrame(index=[row["step"]]))) for row in rows
        ],
    )
