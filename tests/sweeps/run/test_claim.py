import os
import threading

import pytest

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.claim import claimed, given_dir


def claim(path, checkpoint=None):
    with claimed(path, checkpoint) as folder:
        (folder / "run.json").write_text("{}")
    return folder


def test_a_folder_with_a_run_is_refused_unless_resumed(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "point.json").touch()
    claim(run)
    with pytest.raises(UsageError, match=r"already holds a run; choose another --run\.dir$"):
        claim(run)
    with pytest.raises(UsageError, match="already holds a run"):
        claim(run, tmp_path / "other" / "checkpoints" / "last.ckpt")
    claim(run, run / "checkpoints" / "last.ckpt")


def test_the_refusal_names_the_latest_checkpoint(tmp_path):
    claim(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("last.ckpt", "resume.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    os.utime(tmp_path / "checkpoints" / "last.ckpt", (0, 0))
    with pytest.raises(UsageError, match=r"go on with it by --ckpt_path=.*/resume\.ckpt$"):
        claim(tmp_path)


def test_of_two_runs_that_start_at_once_one_gets_the_folder(tmp_path):
    got, refused = [], []

    def start(barrier):
        barrier.wait()
        try:
            got.append(claim(tmp_path / "run"))
        except UsageError:
            refused.append(True)

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=start, args=(barrier,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)


def test_runs_of_one_second_get_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folders = [claim(None) for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.parent.name == "runs" for folder in folders)


def test_a_claim_is_given_back_if_nothing_was_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def fail(path):
        with claimed(path):
            raise ValueError

    for path in (tmp_path / "named", None):
        with pytest.raises(ValueError, match=r"^$"):
            fail(path)
    claim(tmp_path / "named")
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/none"])
def test_a_folder_that_cannot_be_made_is_named(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"run folder .*{path} cannot be written"):
        claim(tmp_path / path)


def test_no_folder_can_be_made_where_runs_is_a_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    with pytest.raises(UsageError, match=r"give another --run\.dir"):
        claim(None)


def test_the_folder_that_a_sweep_gives(monkeypatch):
    monkeypatch.delenv("SYMBREAK_RUN_DIR", raising=False)
    assert given_dir() is None
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "r")
    assert str(given_dir()) == "runs/s/r"
    monkeypatch.setenv("SYMBREAK_RUN_DIR", "elsewhere")
    assert str(given_dir()) == "elsewhere"
