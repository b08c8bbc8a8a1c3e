"""W&B's logger of one run: offline unless the user is logged in or asks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger

from symbreak.sweeps.errors import UsageError

MODES = ("auto", "online", "offline", "disabled", "shared", "run", "dryrun")


def wandb_logger(
    run_dir: Path,
    config: dict[str, Any],
    mode: Literal["auto", "online", "offline", "disabled"] = "auto",
    project: str = "symbreak",
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
) -> WandbLogger | None:
    """Return a W&B logger for a run, or None where W&B is disabled.

    Args:
        run_dir: The run's folder, which receives an offline run's files.
        config: The resolved config under dotted keys.
        mode: ``auto`` is online where the user is logged in and offline elsewhere; WANDB_MODE overrides it.
        project: W&B project.
        entity: W&B entity (default: the user's own).
        name: Name of the run (default: the name of its folder).
        group: Group of runs in W&B's tables.
        tags: Tags of the run.

    Raises:
        UsageError: If WANDB_MODE holds no known mode.
    """
    mode = os.environ.get("WANDB_MODE", mode)  # pyright: ignore[reportAssignmentType]
    if mode not in MODES:
        raise UsageError(f"WANDB_MODE: {mode!r} is not allowed; allowed: {', '.join(MODES)}")
    if mode == "disabled":
        return None
    import wandb

    offline = mode in ("offline", "dryrun") or (mode == "auto" and not wandb.login(prompt=False))
    logger = WandbLogger(
        name=name or run_dir.name,
        save_dir=run_dir,
        project=project,
        entity=entity,
        group=group,
        tags=tags,
        config=config,
        mode="offline" if offline else "online",
        settings=wandb.Settings(quiet=True, silent=offline, console="off" if offline else "auto"),
    )
    logger._wandb_init.pop("anonymous", None)  # W&B warns of it even if Lightning passes None
    return logger
