"""Resume from a checkpoint: options override its run's settings; options without effect are rejected."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from torch.nn.parameter import is_lazy

from symbreak.callbacks import AtomicCheckpointIO
from symbreak.callbacks.symmetry_breaking import OUTCOMES
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.arguments import SECTIONS
from symbreak.sweeps.run.folder import HISTORY, POINT, flatten

KEY = "symbreak_config"
INITIAL = {"init", "noise_scale", "noise_mode"}
"""Arguments of a network that only affect its initial weights, which a checkpoint replaces."""
GROUP_ARGUMENTS = {"lr", "momentum", "dampening", "weight_decay", "nesterov"}

Changes = dict[str, tuple[Any, Any]]


class ConfigKeeper(SaveConfigCallback):
    """Write config.yaml, and put the settings of the run into every checkpoint.

    Both omit the run's folder, because a run that repeats the config or resumes from the checkpoint has another.
    """

    def __init__(self, parser: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        config = config.clone()
        config["run.dir"] = None
        super().__init__(parser, config, *args, **kwargs)
        self.tree: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the settings as plain values."""
        checkpoint[KEY] = self.tree | {"run": self.tree["run"] | {"dir": None}}


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a command starts from."""

    path: Path
    checkpoint: dict[str, Any]

    @classmethod
    def load(cls, path: str) -> Origin:
        """Read a checkpoint.

        Raises:
            UsageError: If it is missing, truncated or foreign.
        """
        try:
            return cls(Path(path), AtomicCheckpointIO().load_checkpoint(path))
        except (OSError, ValueError) as error:
            raise UsageError(f"ckpt_path: {error}") from error

    @property
    def step(self) -> int:
        """The optimiser step at which it was saved."""
        return int(self.checkpoint.get("global_step", 0))

    def settings(self) -> dict[str, Any]:
        """Return those settings of its run that the checkpoint holds, without the folder."""
        kept = self.checkpoint.get(KEY)
        if isinstance(kept, Mapping):
            return {key: kept[key] for key in kept if key == "seed_everything" or key in SECTIONS}
        arguments = dict(self.checkpoint.get("hyper_parameters") or {})
        arguments.pop("_instantiator", None)
        if "_class_path" not in arguments:
            return {}
        tree: dict[str, Any] = {"model": {"class_path": arguments.pop("_class_path"), "init_args": arguments}}
        groups = [group for state in self.checkpoint.get("optimizer_states") or () for group in state["param_groups"]]
        if groups and "dampening" in groups[0] and not self.checkpoint.get("lr_schedulers"):
            values = {name: groups[0][name] for name in sorted(GROUP_ARGUMENTS & groups[0].keys())}
            tree["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": values}
        return tree

    def history(self, run_dir: Path) -> Path:
        """Return the metrics.csv of the run that saved the checkpoint, else that of the run's own folder."""
        source = self.path.absolute().parent.parent / HISTORY
        return source if source.is_file() else run_dir / HISTORY

    def outcome(self) -> dict[str, float]:
        """Return the checkpoint's record of symmetry breaking (steps of events, growth rate), by logged key."""
        states = self.checkpoint.get("callbacks") or {}
        state = next((state for key, state in states.items() if str(key).startswith("SymmetryBreaking")), {})
        history = state.get("history") or {}
        found = {name: history.get(name) for name in OUTCOMES}
        found |= {f"broken_step/{layer}": step for layer, step in (history.get("broken_steps") or {}).items()}
        return {f"symmetry/{name}": value for name, value in found.items() if value is not None}

    def _whole_epochs(self) -> int:
        loop = self.checkpoint.get("loops", {}).get("fit_loop", {})
        progress = loop.get("epoch_loop.batch_progress", {})
        current = loop.get("epoch_progress", {}).get("current", {})
        is_cut_short = not progress.get("is_last_batch") and current.get("processed") == current.get("started")
        return current.get("processed", 0) - int(is_cut_short)

    def check_weights(self, model: LightningModule, changes: Changes) -> None:
        """Compare the checkpoint's weights with a model's.

        Raises:
            UsageError: If a weight is missing, unexpected, or has another shape.
        """
        if type(model).on_load_checkpoint is not LightningModule.on_load_checkpoint or not model.strict_loading:
            return  # the model adapts the checkpoint itself
        saved = {name: tuple(value.shape) for name, value in self.checkpoint["state_dict"].items()}
        if any(is_lazy(parameter) for parameter in model.parameters()):
            return  # shapes of lazy parameters are unknown before the first batch
        own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for name in [*own, *saved]:
            if own.get(name) != saved.get(name):
                told = {key: now for key, (_, now) in changes.items() if key.startswith(("model", "data"))}
                cause = f"; changed beside it: {', '.join(f'{key}={now}' for key, now in told.items())}" if told else ""
                raise UsageError(
                    f"ckpt_path: {self.path} does not fit the model: {name} is {_shape(saved.get(name))} in the "
                    f"checkpoint and {_shape(own.get(name))} in the model{cause}"
                )

    def check_fit(self, changes: Changes, settings: Mapping[str, Any]) -> None:
        """Check that training can go on from the checkpoint with changed settings.

        Raises:
            UsageError: If nothing is left to train, or a changed setting could have no effect.
        """
        self._check_length(settings["trainer"])
        for key, (was, now) in changes.items():
            why = _refusal(key, changes)
            if key == "optimizer.init_args.lr" and self.checkpoint.get("lr_schedulers") and settings["lr_scheduler"]:
                why = "the schedule of the checkpoint goes on and sets it; leave it out"
            if why:
                raise UsageError(f"{key}: {why} (it was {was!r} in the checkpoint's run, and is {now!r})")

    def _is_of_this_run(self) -> bool:
        own = os.environ.get("SYMBREAK_RUN_DIR")
        folder = self.path.resolve().parent.parent
        return own is not None and Path(own).resolve() == folder and (folder / POINT).is_file()

    def _check_length(self, trainer: Mapping[str, Any]) -> None:
        last = trainer.get("max_steps") or -1
        if self._is_of_this_run():
            return  # a sweep's run that was interrupted after its last step is tested
        if 0 <= last <= self.step:
            raise UsageError(
                f"ckpt_path: {self.path} is at step {self.step}, and trainer.max_steps is {last}: nothing is left to "
                "train; give a larger --trainer.max_steps"
            )
        epochs, last_epoch = self._whole_epochs(), trainer.get("max_epochs")
        if last < 0 and last_epoch is not None and 0 <= last_epoch <= epochs:
            raise UsageError(
                f"ckpt_path: {self.path} is at the end of epoch {epochs}, and trainer.max_epochs is {last_epoch}: "
                "nothing is left to train; give a larger --trainer.max_epochs"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a single number"


def _refusal(key: str, changes: Changes) -> str | None:
    """Return why a changed setting cannot take effect on a resumed run, or None if it can."""
    section, name = key.partition(".")[0], key.rsplit(".", 1)[-1]
    if key == "seed_everything" or (section == "model" and name in INITIAL):
        return "acts on the initial weights, which the checkpoint replaces; leave it out"
    if key == "optimizer.class_path" or (section == "optimizer" and name == "amsgrad"):
        return "the state of the optimizer is that of another algorithm; leave it out, or start without the checkpoint"
    if section == "lr_scheduler" and changes[key][0] is not None and changes[key][1] is not None:
        return "the schedule of the checkpoint goes on and cannot be changed; leave it out"
    return None


def changes_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Return the settings that a checkpoint holds and a config changes: key -> (before, after).

    Raises:
        UsageError: If the network is of another class.
    """
    old, new = flatten(before), flatten(after)
    changes = {key: (old[key], new.get(key)) for key in old if old[key] != new.get(key)}
    for key in [key for key in changes if key.endswith("class_path") and _is_same(*changes[key])]:
        del changes[key]
    if "model.class_path" in changes:
        was, now = changes["model.class_path"]
        raise UsageError(f"model.class_path: the checkpoint holds the weights of {was}, not of {now}; leave it out")
    return changes


def _is_same(first: Any, second: Any) -> bool:
    try:
        return pkgutil.resolve_name(first) is pkgutil.resolve_name(second)
    except (ImportError, AttributeError, ValueError, TypeError):
        return first == second


class OptimizerOptions(Callback):
    """Set changed arguments of the optimizer, after the checkpoint has restored the saved ones."""

    def __init__(self, changes: Changes) -> None:
        prefix = "optimizer.init_args."
        self.values = {key.removeprefix(prefix): now for key, (_, now) in changes.items() if key.startswith(prefix)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set them in every parameter group."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group |= {name: value for name, value in self.values.items() if name in group}
