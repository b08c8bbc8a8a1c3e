"""The command line of `symbreak fit|validate|test`, checked as far as possible before the heavy imports."""

from __future__ import annotations

from pathlib import Path

from symbreak.sweeps.errors import UsageError, nearest
from symbreak.sweeps.paths import config_file
from symbreak.sweeps.yaml_files import parse_mapping, read_mapping

SECTIONS = {
    "trainer": "Lightning's Trainer: max_steps, max_epochs, devices, precision, ...",
    "model": "the network: a class name, and its arguments as model.init_args.NAME",
    "data": "the data: a class name, and its arguments as data.init_args.NAME",
    "optimizer": "a class name of torch.optim, and optimizer.init_args.NAME",
    "lr_scheduler": "a class name of torch.optim.lr_scheduler, and lr_scheduler.init_args.NAME",
    "determinism": "mode: nondeterministic, cudnn or strict; allow_tf32",
    "seeds": "init, order, augmentation, dropout, rounding: a source's own seed",
    "rounding_noise": "ulps: size of the noise on gradients in units in the last place",
    "perturbation": "kind, step, scope, scale: change weights once",
    "acceleration": "compile; channels_last: auto, true or false",
    "feature_diversity": "schedule and layers of the measures diversity/...",
    "symmetry_breaking": "schedule, layers and threshold of the measures symmetry/...",
    "clone_separation": "schedule and start of the measures clones/... of units that are copies",
    "snapshots": "per_doubling: weights kept at log-spaced steps; test_logits",
    "symmetry_trace": "replays: of a step in which symmetry breaks, to name the operation; 0 is off",
    "checkpoint": "Lightning's ModelCheckpoint",
    "exact_resume": "every_n_steps: steps between two resume.ckpt",
    "run": "dir: the run's folder; test: whether to test after fitting",
    "wandb": "mode: auto, online, offline or disabled; project, entity, name, group, tags",
}
PLAIN = {"config", "seed_everything", "ckpt_path", "weights_only", "verbose", "print_config", "help"}


def prepare(args: list[str]) -> list[str]:
    """Return a command line in the parser's form: ``["fit", "--run.dir=runs/a", ...]``.

    Options may be written with dashes (``--rounding-noise.ulps``), ``-c`` is ``--config``, and a shipped config may be
    given by its name.

    Raises:
        UsageError: If a config is missing or malformed, or an option belongs to no section.
    """
    words: list[str] = []
    for word in args:
        before = words[-1] if words else ""
        if word == "--help=all":
            word = "--help"
        name, equals, value = word.partition("=")
        if name == "-c":
            name = "--config"
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
            _check_section(name[2:])
            words.append(name + equals + (_config(value) if name == "--config" and equals else value))
        else:
            words.append(_config(word) if before == "--config" else word)
    return words


def checkpoint_in(words: list[str]) -> str | None:
    """Return ckpt_path of a prepared command line, or of its configs; the last one counts, as in parsing.

    Raises:
        UsageError: If it is empty.
    """
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if name == "--ckpt_path":
            found = value
        elif name == "--config":
            config = parse_mapping(value, name) if _is_text(value) else read_mapping(Path(value))
            found = config.get("ckpt_path", found)
    if found == "":
        raise UsageError("ckpt_path is empty: name a checkpoint")
    return None if found in (None, "null") else str(found)


def _check_section(key: str) -> None:
    section, dot, rest = key.partition(".")
    if section.rstrip("+") not in SECTIONS and section not in PLAIN:
        ending = f"{dot}{rest}" if dot else ""
        known = [*(name + ending for name in SECTIONS), *(PLAIN if not dot else ())]
        raise UsageError(f"unknown key {key!r}{nearest(key, known)}")


def _config(value: str) -> str:
    if _is_text(value):
        parse_mapping(value, "--config")
        return value
    path = config_file(value)
    for key in read_mapping(path):
        if str(key).partition(".")[0] not in {*SECTIONS, *PLAIN}:
            raise UsageError(f"{path}: unknown key {key!r}{nearest(str(key), [*SECTIONS, *PLAIN])}")
    return str(path)


def _is_text(value: str) -> bool:
    """Whether the value of ``--config`` is the config itself, not its file."""
    return "\n" in value or value.lstrip().startswith("{")
