"""Write checkpoint files atomically, and report the reason when a file cannot be read."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from symbreak.callbacks.checkpoint_files import unreadable


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint to a temporary file and rename it; read plain values and tensors only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save atomically: a process killed at any moment leaves the complete previous or new file."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        part = Path(f"{path}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a Lightning checkpoint, without unpickling objects unless `weights_only` is False.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is empty, truncated, or not a Lightning checkpoint.
        """
        weights_only = True if weights_only is None else weights_only
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only)
        except FileNotFoundError:
            raise
        except Exception as error:  # invalid files raise many types of error
            raise ValueError(unreadable(path, error)) from error
        if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
            raise ValueError(f"{path} is not a checkpoint of Lightning: it has no pytorch-lightning_version")
        return checkpoint
