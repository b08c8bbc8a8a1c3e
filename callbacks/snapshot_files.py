"""Names of the files that Snapshots writes into a run's folder; a reader needs neither torch nor Lightning for them."""

from pathlib import Path

FOLDER, LOGITS = "snapshots", "test_logits.npz"


def snapshot_steps(folder: Path) -> dict[int, Path]:
    """Return a run's snapshot files by step, ascending."""
    found = {int(path.stem.removeprefix("step-")): path for path in (folder / FOLDER).glob("step-*.pt")}
    return dict(sorted(found.items()))
