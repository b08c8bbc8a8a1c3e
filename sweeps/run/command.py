"""`symbreak fit|validate|test`: LightningCLI with this package's callbacks, loggers and run folder."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities import rank_zero_only
from torch.optim import Optimizer

from symbreak.callbacks import Acceleration
from symbreak.datamodules import ImageDataModule, TextDataModule
from symbreak.lightning_modules import ImageClassifier, LanguageModel
from symbreak.sweeps.errors import UsageError, condensed, explain, refusal_in
from symbreak.sweeps.run.arguments import checkpoint_in
from symbreak.sweeps.run.claim import claimed, given_dir
from symbreak.sweeps.run.folder import flatten
from symbreak.sweeps.run.logger import RunLogger
from symbreak.sweeps.run.memory_format import channels_last_is_safe
from symbreak.sweeps.run.outcome import print_run
from symbreak.sweeps.run.parser import ConfiguredCLI, tree_of
from symbreak.sweeps.run.progress import ProgressLines
from symbreak.sweeps.run.resume import Changes, ConfigKeeper, OptimizerOptions, Origin, changes_of
from symbreak.sweeps.run.seeds import initialize_apart
from symbreak.sweeps.run.wandb_logging import wandb_logger

HARMLESS = (
    ".*configure_optimizers` will be overridden",
    ".*LeafSpec.*deprecated",
    r"\s*``.*(parser|ArgumentParser|instantiate).*deprecated in v4",
    r"\s*skip_none parameter was deprecated",
    "Checkpoint directory .* exists and is not empty",
    "The dirpath has changed from",
    "Total length of `list` across ranks is zero",
    "The number of training batches .* is smaller than the logging interval",
)
"""Library warnings about intended behaviour, or about which a user can do nothing."""
INPUTS = {
    "images": (ImageClassifier, ImageDataModule, "DigitsDataModule"),
    "text": (LanguageModel, TextDataModule, "TextDataModule"),
}
"""Kinds of input: the networks that take it, the data modules that give it, and one of these."""
STEPWISE = (torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR)


class NoProfiler(PassThroughProfiler):
    """Profile nothing, without overhead: Lightning enters and exits a profiler about fifty times per step."""

    _nothing = nullcontext("")

    def profile(self, action_name: str) -> AbstractContextManager[str]:  # pyright: ignore
        """Return a context that does nothing."""
        return self._nothing


class SymbreakCLI(ConfiguredCLI):
    """One run from one config: determinism first, then model, data and callbacks, then the run's folder."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the options; with a checkpoint they override the settings of its run.

        Raises:
            UsageError: If the checkpoint cannot be read, or resuming from it is impossible with an option.
        """
        words = sys.argv[1:] if args is None else cast(list[str], args)
        self.origin: Origin | None = None
        self.changes: Changes = {}
        command, path = words[0], checkpoint_in(words)
        if not path:
            self.config = parser.parse_args(words)
            if command != "fit":
                raise UsageError("ckpt_path is missing: name the checkpoint whose weights are meant")
            return
        self.origin = Origin.load(path)
        settings = self.origin.settings()
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(settings, file)
            file.flush()
            self.config = parser.parse_args([command, f"--config={file.name}", *words[1:]])
        self._replace_appended(settings.get("trainer") or {}, tree_of(parser, self.config)["trainer"])
        tree = tree_of(parser, self.config)
        self.changes = changes_of(settings, tree)
        if command == "fit":
            self.origin.check_fit(self.changes, tree)

    def _replace_appended(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Let callbacks and loggers appended with ``+=`` replace those of the checkpoint's run, class by class.

        Where the run had more or fewer of a class than are appended, all are kept: none can be told to be meant.
        """
        trainer = self.config[self.config.subcommand].trainer
        for name in ("callbacks", "logger"):
            kept, entries = before.get(name), trainer.get(name)
            if isinstance(kept, list) and isinstance(entries, list) and after[name][: len(kept)] == kept:
                old, new = entries[: len(kept)], entries[len(kept) :]
                earlier, now = (Counter(entry.class_path for entry in part) for part in (old, new))
                trainer[name] = [entry for entry in old if earlier[entry.class_path] != now[entry.class_path]] + new

    def _parse_ckpt_path(self) -> None:
        """Skip Lightning's step, in which a checkpoint's hyperparameters replace explicit options."""

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except (ValueError, OverflowError) as error:
            raise UsageError(f"seed_everything: {condensed(str(error))}") from error

    def instantiate_classes(self) -> None:
        """Build everything, and report constructor errors as UsageError.

        Raises:
            UsageError: If a constructor rejects its arguments, or the run's folder holds another run.
        """
        try:
            super().instantiate_classes()
            if (seed := self._get(self.config, "seeds.init")) is not None:
                initialize_apart(self.model, seed, self._build_model)
        except UsageError:
            raise
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UsageError(explain(str(refusal_in(error)))) from error

    def _build_model(self) -> LightningModule:
        return self._get(self.parser.instantiate_classes(self.config), "model")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Claim the run's folder, then build the trainer; the processes that it starts inherit the folder."""
        self._check_inputs()
        if self.origin:
            self.origin.check_weights(self.model, self.changes)
        given = self._get(self.config, "run.dir")
        path = Path(given) if given else given_dir()
        is_main = rank_zero_only.rank == 0
        start = self.origin.path if self.origin and self.subcommand == "fit" else None
        with claimed(path, start) if is_main else nullcontext(path or Path("runs")) as self.run_dir:
            self.config[str(self.subcommand)]["run.dir"] = os.environ["SYMBREAK_RUN_DIR"] = str(self.run_dir)
            return self._build_trainer(**kwargs)

    def _check_inputs(self) -> None:
        takes, _ = next((kind for kind in INPUTS.items() if isinstance(self.model, kind[1][0])), (None, None))
        gives, _ = next((kind for kind in INPUTS.items() if isinstance(self.datamodule, kind[1][1])), (None, None))
        if takes and gives and takes != gives:
            raise UsageError(
                f"{type(self.datamodule).__name__} gives {gives}, and {type(self.model).__name__} takes {takes}; "
                f"choose --data {INPUTS[takes][2]} or another --model"
            )

    def _build_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run folder's logger first, W&B second, then the user's own."""
        config = self._get(self.config_init, "trainer")
        self._dump_config()
        self.run_logger = RunLogger(self.run_dir, self.origin if self.subcommand == "fit" else None)
        wandb = wandb_logger(self.run_dir, flatten(self.config_dump), **self._get(self.config_init, "wandb"))
        own = config.get("logger")
        loggers: list[Logger] = [self.run_logger, *([wandb] if wandb else [])]
        if not isinstance(own, (bool, type(None))):
            loggers += own if isinstance(own, list) else [own]
        if config.get("profiler") is None:
            kwargs["profiler"] = NoProfiler()
        if config.get("default_root_dir") is None:  # where Lightning writes without loggers
            kwargs["default_root_dir"] = str(self.run_dir)
        for name in ("enable_progress_bar", "enable_model_summary"):
            if config.get(name) is None:
                kwargs[name] = sys.stdout.isatty()
        lines = [] if kwargs.get("enable_progress_bar", config.get("enable_progress_bar")) else [ProgressLines()]
        trainer = super().instantiate_trainer(logger=loggers, **kwargs)
        self._inform(trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
        own_callbacks = [*lines, *([OptimizerOptions(self.changes)] if self.changes else [])]
        trainer.callbacks.extend(own_callbacks)  # pyright: ignore[reportAttributeAccessIssue]
        return trainer

    def _inform(self, callbacks: list[Callback]) -> None:
        """Give callbacks what only a command knows."""
        for callback in callbacks:
            if isinstance(callback, ConfigKeeper):
                callback.tree = tree_of(self.parser, self.config)
            if isinstance(callback, Acceleration):
                callback.is_safe = channels_last_is_safe

    @staticmethod
    def configure_optimizers(lightning_module: Any, optimizer: Optimizer, lr_scheduler: Any = None) -> Any:
        """Step per-step schedules (one-cycle, cyclic) every step, all others every epoch, as Lightning does."""
        if isinstance(lr_scheduler, STEPWISE):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}
        return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)

    def fit(self, **kwargs: Any) -> None:
        """Fit, then test the final weights."""
        self.run_logger.callbacks = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        with self.run_logger.run():
            self.trainer.fit(**kwargs)
            if self.origin and self.origin.step == self.trainer.global_step:  # it ended before its last checkpoint
                self._save_last()
            if self._get(self.config_init, "run.test"):
                self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def _save_last(self) -> None:
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_last and callback.dirpath:
                self.trainer.save_checkpoint(Path(callback.dirpath, f"{callback.CHECKPOINT_NAME_LAST}.ckpt"))

    def validate(self, **kwargs: Any) -> None:
        """Validate the weights of the checkpoint."""
        with self.run_logger.run():
            self.trainer.validate(**{**kwargs, "verbose": False})

    def test(self, **kwargs: Any) -> None:
        """Test the weights of the checkpoint."""
        with self.run_logger.run():
            self.trainer.test(**{**kwargs, "verbose": False})


def run(args: list[str]) -> SymbreakCLI:
    """Run one command in this process, its arguments as `prepare` returns them.

    Raises:
        UsageError: If the input is bad.
    """
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)
    sys.argv[1:] = args
    return SymbreakCLI()


def main(args: list[str]) -> int:
    """Run one command in this process and print its outcome; return its exit status."""
    cli = run(args)
    if rank_zero_only.rank == 0:
        print_run(cli.run_dir)
    return 0
