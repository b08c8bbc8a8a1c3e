"""Checkpoint files that are whole or absent, and that say what is wrong with them when they cannot be read."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and move it there; read it as plain values and tensors only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save so that a process killed at any moment leaves the previous file, or the new one, whole."""
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
            FileNotFoundError: If there is no such file.
            ValueError: If the file is truncated, or not a Lightning checkpoint.
        """
        weights_only = True if weights_only is None else weights_only
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only)
        except FileNotFoundError:
            raise
        except Exception as error:  # foreign bytes make the reader raise almost anything
            reason = str(error).partition(". In PyTorch")[0].partition("\n")[0] or type(error).__name__
            raise ValueError(f"{path} is not a checkpoint, or it is truncated: {reason}") from error
        if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
            raise ValueError(f"{path} is not a checkpoint of Lightning: it has no pytorch-lightning_version")
        return checkpoint
