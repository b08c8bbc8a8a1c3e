"""`symbreak fit|validate|test`: LightningCLI with the laboratory's callbacks, loggers and run folder."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities import rank_zero_only
from torch.optim import Optimizer

from symbreak.callbacks import (
    Acceleration,
    AtomicCheckpointIO,
    Determinism,
    ExactResume,
    FeatureDiversity,
    RoundingNoise,
    SymmetryBreaking,
)
from symbreak.datamodules import ImageDataModule
from symbreak.lightning_modules import ImageClassifier
from symbreak.lightning_modules.classifier import SGD_DEFAULTS
from symbreak.sweeps.errors import OneLineParser, UsageError, explain
from symbreak.sweeps.paths import with_shipped_configs
from symbreak.sweeps.run.claim import claimed, given_dir
from symbreak.sweeps.run.folder import flatten
from symbreak.sweeps.run.logger import RunLogger
from symbreak.sweeps.run.outcome import print_run
from symbreak.sweeps.run.wandb_logging import wandb_logger

CALLBACKS = {
    "determinism": Determinism,
    "acceleration": Acceleration,
    "rounding_noise": RoundingNoise,
    "feature_diversity": FeatureDiversity,
    "symmetry_breaking": SymmetryBreaking,
    "checkpoint": ModelCheckpoint,
    "exact_resume": ExactResume,
}
DEFAULTS = {
    "model": {"class_path": "symbreak.lightning_modules.ConstNet"},
    "data": {"class_path": "symbreak.datamodules.DigitsDataModule"},
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": SGD_DEFAULTS},
    "checkpoint.save_last": True,
}
STEPWISE = (torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR)


class NoProfiler(PassThroughProfiler):
    """Measures nothing, at no cost: Lightning enters and leaves a profiler some fifty times a step."""

    _nothing = nullcontext("")

    def profile(self, action_name: str) -> AbstractContextManager[str]:  # pyright: ignore
        """Return a context that does nothing."""
        return self._nothing


class Parser(OneLineParser, LightningArgumentParser):
    """LightningCLI's parser with errors in one line."""

    def valid_keys(self) -> tuple[str, ...]:
        """Return every dotted key of the default config."""
        return _valid_keys()


class SymbreakCLI(LightningCLI):
    """One run from one config: determinism first, then model, data and callbacks, then the run's folder."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_class=Parser,
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Name the trainer's methods that are commands."""
        everything = LightningCLI.subcommands()
        return {name: everything[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give every part of an experiment a section of its own, so that a sweep reaches it by a dotted key."""
        for key, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, key)
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        parser.add_argument("--run.dir", type=str | None, help="the run's folder (default: runs/<date and time>)")
        parser.add_argument("--run.test", type=bool, default=True, help="test the final weights after fitting")
        parser.add_function_arguments(wandb_logger, "wandb", skip={"run_dir", "config"})
        for name in ("num_classes", "in_channels"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.set_defaults(DEFAULTS)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and read the checkpoint that a run starts from before Lightning takes its hyperparameters from it.

        Raises:
            UsageError: If the checkpoint is missing, truncated or foreign.
        """
        super().parse_arguments(parser, args)
        path = self.config[self.config.subcommand].get("ckpt_path")
        try:
            self.checkpoint = AtomicCheckpointIO().load_checkpoint(path) if path else None
        except (OSError, ValueError) as error:
            raise UsageError(f"ckpt_path: {error}") from error

    def before_instantiate_classes(self) -> None:
        """Settle whether the run goes on from a checkpoint."""
        self.resume = self.checkpoint if self.subcommand == "fit" else None

    def instantiate_classes(self) -> None:
        """Build everything, and report what a constructor refuses as a usage error.

        Raises:
            UsageError: If a constructor refuses its arguments, or the run's folder holds another run.
        """
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise UsageError(explain(str(cause))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Claim the run's folder, then build the trainer; the processes that it starts inherit the folder."""
        given = self._get(self.config, "run.dir")
        path = Path(given) if given else given_dir()
        is_main = rank_zero_only.rank == 0
        with claimed(path, self.resume is not None) if is_main else nullcontext(path or Path("runs")) as self.run_dir:
            self.config[str(self.subcommand)]["run.dir"] = os.environ["SYMBREAK_RUN_DIR"] = str(self.run_dir)
            return self._build_trainer(**kwargs)

    def _build_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run folder's logger first, W&B second, then the user's own."""
        config = self._get(self.config_init, "trainer")
        self._dump_config()
        self.run_logger = RunLogger(self.run_dir, self.resume["global_step"] if self.resume else None)
        wandb = wandb_logger(self.run_dir, flatten(self.config_dump), **self._get(self.config_init, "wandb"))
        own = config.get("logger")
        loggers: list[Logger] = [self.run_logger, *([wandb] if wandb else [])]
        if not isinstance(own, (bool, type(None))):
            loggers += own if isinstance(own, list) else [own]
        if config.get("profiler") is None:
            kwargs["profiler"] = NoProfiler()
        for name in ("enable_progress_bar", "enable_model_summary"):
            if config.get(name) is None:
                kwargs[name] = sys.stdout.isatty()
        return super().instantiate_trainer(logger=loggers, **kwargs)

    @staticmethod
    def configure_optimizers(lightning_module: Any, optimizer: Optimizer, lr_scheduler: Any = None) -> Any:
        """Step per-step schedules (one-cycle, cyclic) every step, all others every epoch, as Lightning does."""
        if isinstance(lr_scheduler, STEPWISE):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}
        return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)

    def fit(self, **kwargs: Any) -> None:
        """Fit, then test the weights that training ended with."""
        self.run_logger.callbacks = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        with self.run_logger.run():
            self.trainer.fit(**kwargs)
            if self._get(self.config_init, "run.test"):
                self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def validate(self, **kwargs: Any) -> None:
        """Validate the given weights."""
        with self.run_logger.run():
            self.trainer.validate(**kwargs)

    def test(self, **kwargs: Any) -> None:
        """Test the given weights."""
        with self.run_logger.run():
            self.trainer.test(**kwargs)


class _ParserOnly(SymbreakCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        raise StopIteration


@cache
def build_parser() -> LightningArgumentParser:
    """Return the parser of ``symbreak fit|validate|test``, without running anything."""
    cli = _ParserOnly.__new__(_ParserOnly)
    try:
        cli.__init__()
    except StopIteration:
        return cli.parser
    raise AssertionError("the parser was not reached")


def resolve(args: list[str]) -> dict[str, Any]:
    """Parse ``["fit", "--config", ...]`` and return the resolved config under dotted keys; nothing is instantiated.

    Raises:
        UsageError: If an argument, key or value is not valid.
    """
    parser = build_parser()
    config = parser.parse_args(with_shipped_configs(args))
    tree = parser.dump(config, skip_link_targets=False, skip_unset=False, format="json")
    return flatten(json.loads(tree)[config.subcommand])


@cache
def _valid_keys() -> tuple[str, ...]:
    return tuple(resolve(["fit"]))


def main(args: list[str]) -> int:
    """Run one command in this process; return its exit status.

    Raises:
        UsageError: If the input is bad.
    """
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*configure_optimizers` will be overridden")
    warnings.filterwarnings("ignore", ".*LeafSpec.*deprecated")
    sys.argv[1:] = with_shipped_configs(args)
    cli = SymbreakCLI()
    if rank_zero_only.rank == 0:
        print_run(cli.run_dir)
    return 0
