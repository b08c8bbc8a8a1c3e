import shutil
import subprocess

import symbreak.sweeps.run.provenance as module
from symbreak.sweeps.run.provenance import code_state, git_state


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_a_repository_that_merely_encloses_the_code_is_not_its_own(tmp_path):
    installed = tmp_path / "venv" / "site-packages" / "symbreak" / "sweeps"
    installed.mkdir(parents=True)
    shutil.copy(module.SOURCES / "cli.py", installed)
    assert git_state(installed) == {"commit": None, "dirty": None}
    git(tmp_path, "init")
    (tmp_path / "mine.py").touch()
    git(tmp_path, "add", "mine.py")
    git(tmp_path, "commit", "-m", "mine")
    assert git_state(installed) == {"commit": None, "dirty": None}
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "theirs")
    assert len(str(git_state(installed)["commit"])) == 40
    assert git_state(installed)["dirty"] is False


def test_the_packages_version_is_recorded(monkeypatch):
    assert code_state()["package"] == {"version": "0.1.0"}

    def missing(name):
        raise module.PackageNotFoundError

    monkeypatch.setattr(module, "version", missing)
    assert code_state()["package"] == {"version": None}
