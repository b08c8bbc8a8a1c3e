"""The reasons are those of files that torch itself wrote and that were then damaged."""

import zipfile
from pathlib import PurePosixPath

import pytest
import torch

from symbreak.callbacks import AtomicCheckpointIO
from symbreak.callbacks.checkpoint_files import unreadable


def bytes_of(tmp_path, content):
    torch.save(content, tmp_path / "whole.pt")
    return (tmp_path / "whole.pt").read_bytes()


def said(path):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        torch.load(path, weights_only=True)
    return unreadable(path, caught.value)


def test_each_damage_is_one_line_that_names_the_file_and_advises_no_unpickling(tmp_path):
    whole = bytes_of(tmp_path, {"state_dict": {"weight": torch.zeros(100)}})
    objects = bytes_of(tmp_path, {"folder": PurePosixPath("a")})
    lines = {}
    path = tmp_path / "bad.ckpt"
    contents = {"empty": b"", "half": whole[: len(whole) // 2], "text": b"no checkpoint", "objects": objects}
    for name, content in contents.items():
        path.write_bytes(content)
        lines[name] = said(path)
        with pytest.raises(ValueError, match=str(path)) as caught:
            AtomicCheckpointIO().load_checkpoint(path)
        assert str(caught.value) == lines[name]
    assert lines["empty"] == f"{path} is not a checkpoint: it is empty (0 bytes)"
    assert lines["half"] == f"{path} is truncated: the end of its zip archive is missing"
    assert "Python objects, which are not unpickled here" in lines["objects"]
    for line in lines.values():
        assert line.startswith(str(path))
        assert "weights_only" not in line
        assert "\n" not in line
        assert len(line) < len(str(path)) + 100


def test_a_zip_archive_without_its_parts_is_damaged_and_a_folder_is_named(tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/file.txt", "text")
    assert said(path) == f"{path} is not a file of torch.save, or it is damaged"
    assert said(tmp_path) == f"{tmp_path}: Is a directory"
