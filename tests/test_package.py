"""The installed package: one import name, beside a project that has folders of the same names."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THEIRS = {
    "callbacks/__init__.py": "OWNER = 'a project of its own'",
    "sweeps/__init__.py": "OWNER = 'a project of its own'",
    "train.py": (
        "import callbacks, sweeps, symbreak.callbacks, symbreak.sweeps\n"
        "from symbreak.callbacks import functional\n"
        "print(callbacks.OWNER, sweeps.OWNER, symbreak.sweeps.__file__, functional.__name__, sep='\\n')\n"
    ),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of what git tracks, so that no build folder is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--null", "--files-from=-", "-cf", source / "tree.tar"], cwd=ROOT, input=names, check=True)
    subprocess.run(["tar", "-xf", "tree.tar"], cwd=source, check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", target, "."]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Install the wheel without dependencies into a scratch environment that borrows this one's packages.

    The borrowed packages come behind the wheel's own files on the path, and this checkout's link is not among them.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--disable-pip-version-check", wheel], check=True, capture_output=True)
    borrowed = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "borrowed.pth").write_text(f"import sys; sys.path.append({borrowed!r})\n")
    return folder / "bin"


def test_the_wheel_holds_one_package_with_its_types_and_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"symbreak"}
    assert {"symbreak/py.typed", "symbreak/sweeps/quickstart.yaml", "symbreak/sweeps/configs/digits.yaml"} <= names
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = ("callbacks", "datamodules", "lightning_modules", "sweeps")
    shipped = {f"symbreak/{name}" for name in tracked if name.split("/")[0] in top and (ROOT / name).is_file()}
    assert shipped - names == set()


def test_it_lives_beside_a_project_with_folders_of_the_same_names(environment, tmp_path):
    for name, content in THEIRS.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    run = subprocess.run([environment / "python", "train.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    theirs, their_sweeps, ours, measures = run.stdout.splitlines()
    assert theirs == their_sweeps == "a project of its own"
    assert Path(ours).is_relative_to(environment.parent)
    assert measures == "symbreak.callbacks.functional"
    fit = [environment / "symbreak", "fit", "--trainer.max_steps=1", "--run.test=false", "--wandb.mode=disabled"]
    small = ["--model.init_args.depth=7", "--model.init_args.widen_factor=1", "--trainer.limit_val_batches=1"]
    done = subprocess.run([*fit, *small, "--run.dir=run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").is_file()
