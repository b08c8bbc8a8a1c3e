"""No input yields a traceback: options and files that nobody would write."""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sweeps.run.conftest import SMALL, trained

from symbreak.sweeps import cli
from symbreak.sweeps.run.command import SymbreakCLI
from symbreak.sweeps.run.folder import fraction, last_lines, read_json, status
from symbreak.sweeps.run.outcome import read_outcome
from symbreak.sweeps.run.parser import resolve
from symbreak.sweeps.run.record import Run, Skipped, read_run

__all__ = ["trained"]
DIGITS = Path("sweeps/configs/digits.yaml").read_bytes()
TRAINS_LONG = {"trainer.max_steps", "trainer.max_epochs", "trainer.num_nodes", "trainer.devices", "trainer.strategy"}


def examples(number):
    own_fixtures = [HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=number, deadline=None, database=None, derandomize=True, suppress_health_check=own_fixtures
    )


VALUES = ["", " ", "nan", ".nan", ".inf", "-1", "0", "1", "1.5", "1e400", "null", "true", "[", "[]", "[1]", "{}"]
VALUES += [
    "{a: 1}",
    "{a: 1, a: 2}",
    "a=b",
    "[/b]",
    "[lr=0.1]",
    "\x00",
    "\ud800",
    "é",
    "x" * 5000,
    "--x",
    "-c",
    "!!python/x",
]
VALUES += ["SGD", "Adam", "StepLR", "ConstNet", "torch.nn.Linear", "os.system", "nowhere.Net", "/proc/x", ".", "digits"]
NAMES = ["", "model", "model.", ".model", "model.init_args", "model.x.y", "trainer..x", "x", "fit", "é", "model.depth+"]
BLOBS = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"null",
    b"[1]",
    b'"x"',
    b"{",
    b"a: [",
    b"nan",
    b"step,a\n1,2",
    b"step\nx\n",
    b"---\n---\n",
]


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch, tmp_path):
    def stop(cli, **kwargs):
        with cli.run_logger.run():
            pass

    for command in ("fit", "validate", "test"):
        monkeypatch.setattr(SymbreakCLI, command, stop)
    monkeypatch.setattr(sys, "argv", ["symbreak"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("SYMBREAK_RUN_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


def run(*words):
    """Run a command; check that it succeeds in silence or fails in one line."""
    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.MonkeyPatch.context() as env,
    ):
        env.delenv("SYMBREAK_RUN_DIR", raising=False)
        try:
            code = cli.main(list(words))
        except SystemExit as error:
            code = error.code
    lines = [line for line in said.getvalue().splitlines() if "error" in line.lower() or "Traceback" in line]
    assert code in (0, 2), (words, said.getvalue())
    assert len(lines) == (code == 2), (words, said.getvalue())


keys = sorted(set(resolve(["fit"])) - TRAINS_LONG)
options = st.tuples(
    st.sampled_from(keys) | st.sampled_from(NAMES), st.sampled_from(VALUES), st.sampled_from(["=", " "])
)


@examples(50)
@given(st.sampled_from(["fit", "fit", "test"]), st.lists(options, min_size=1, max_size=2))
def test_any_option(command, chosen):
    words = [part for key, value, sign in chosen for part in f"--{key}{sign}{value}".split(" ", 1)]
    run(command, *SMALL, *words)


mutations = st.tuples(st.integers(0, 10**6), st.integers(0, 30), st.sampled_from(BLOBS) | st.binary(max_size=8))


def mutated(blob, mutation):
    place, removed, added = mutation
    place %= len(blob) + 1
    return blob[:place] + added + blob[place + removed :]


@examples(40)
@given(st.sampled_from(BLOBS) | mutations.map(lambda each: mutated(DIGITS, each)) | st.binary(max_size=40))
def test_any_config(content):
    Path("own.yaml").write_bytes(content)
    run("fit", *SMALL[1:], "-c", "own.yaml")


@examples(25)
@given(st.sampled_from(BLOBS) | mutations)
def test_any_checkpoint(trained, change):
    whole = (trained / "checkpoints" / "last.ckpt").read_bytes()
    Path("own.ckpt").write_bytes(change if isinstance(change, bytes) else mutated(whole, change))
    run("test", "--ckpt_path", "own.ckpt")


@examples(150)
@given(
    st.sampled_from(["run.json", "summary.json", "metrics.csv", "config.yaml", "point.json"]),
    st.sampled_from(BLOBS) | mutations | st.binary(max_size=40),
)
def test_any_run_folder(trained, name, change):
    with tempfile.TemporaryDirectory() as folder:
        for file in ("run.json", "summary.json", "metrics.csv", "config.yaml"):
            Path(folder, file).write_bytes((trained / file).read_bytes())
        whole = Path(folder, name).read_bytes() if Path(folder, name).exists() else b"{}"
        Path(folder, name).write_bytes(change if isinstance(change, bytes) else mutated(whole, change))
        assert isinstance(read_run(Path(folder)), (Run, Skipped))
        assert read_outcome(Path(folder)).cells()
        assert 0 <= fraction(Path(folder)) <= 1
        assert isinstance(last_lines(Path(folder)), str)
        assert status(Path(folder), read_json(Path(folder, "run.json")))
