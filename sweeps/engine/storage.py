"""Where the state of a sweep lies: a journal file, or a database that several machines reach."""

import re
import time
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from symbreak.sweeps.errors import UsageError


def open_storage(storage: str | None, folder: Path) -> BaseStorage:
    """Open the store of a sweep.

    Args:
        storage: A database URL, the path of a journal file, or None for `journal.log` in the sweep's folder.
        folder: The sweep's folder, made if needed.

    Returns:
        Optuna's storage.

    Raises:
        UsageError: If the database cannot be reached, or its driver is not installed.
    """
    if storage is None or "://" not in storage:
        path = Path(storage) if storage else folder / "journal.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    shown = re.sub(r"://[^@/]*@", "://***@", storage)
    for attempt in range(3):
        try:
            return RDBStorage(storage, engine_kwargs={"pool_pre_ping": True})
        except Exception as error:  # SQLAlchemy, its drivers and Optuna each raise their own
            reason = " ".join(str(error.__cause__ or error).split()).replace(storage, shown)[:200]
            is_race = re.search("unique|exist", reason, re.IGNORECASE)  # another caller makes the tables just now
            if not is_race or attempt == 2:
                break
            time.sleep(0.5)
    raise UsageError(f"--storage {shown}: cannot be reached: {reason}")
