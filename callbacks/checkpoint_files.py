"""Say in one line why a file of torch.save cannot be read; needs neither torch nor Lightning."""

import pickle
import zipfile
from pathlib import Path

ZIP_START = b"PK"


def unreadable(path: str | Path, error: Exception) -> str:
    """Return the path and the reason for an error that ``torch.load(path, weights_only=True)`` raised.

    torch's own messages are not quoted: they fill a page, or advise to unpickle code.
    """
    if isinstance(error, (FileNotFoundError, IsADirectoryError, PermissionError)):
        return f"{path}: {error.strerror}"
    if Path(path).is_file():
        with Path(path).open("rb") as file:
            start = file.read(len(ZIP_START))
        if not start:
            return f"{path} is not a checkpoint: it is empty (0 bytes)"
        if start == ZIP_START and not zipfile.is_zipfile(path):
            return f"{path} is truncated: the end of its zip archive is missing"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return f"{path} holds Python objects, which are not unpickled here, or is no checkpoint"
    return f"{path} is not a file of torch.save, or it is damaged"
