"""The keys of a run: one parser for the command line, configs and sweeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from torch.optim import Optimizer

from symbreak.callbacks import (
    Acceleration,
    CloneSeparation,
    Determinism,
    ExactResume,
    FeatureDiversity,
    Perturbation,
    RoundingNoise,
    Snapshots,
    SymmetryBreaking,
    SymmetryTrace,
)
from symbreak.lightning_modules.classifier import SGD_DEFAULTS
from symbreak.sweeps.errors import OneLineParser
from symbreak.sweeps.run.arguments import prepare
from symbreak.sweeps.run.folder import flatten
from symbreak.sweeps.run.resume import ConfigKeeper
from symbreak.sweeps.run.seeds import DATA_SEEDS, Seeds
from symbreak.sweeps.run.wandb_logging import wandb_logger

CALLBACKS = {
    "determinism": Determinism,
    "acceleration": Acceleration,
    "seeds": Seeds,
    "rounding_noise": RoundingNoise,
    "perturbation": Perturbation,
    "feature_diversity": FeatureDiversity,
    "symmetry_breaking": SymmetryBreaking,
    "clone_separation": CloneSeparation,
    "snapshots": Snapshots,
    "symmetry_trace": SymmetryTrace,
    "checkpoint": ModelCheckpoint,
    "exact_resume": ExactResume,
}
DEFAULTS = {
    "model": {"class_path": "symbreak.lightning_modules.ConstNet"},
    "data": {"class_path": "symbreak.datamodules.DigitsDataModule"},
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": SGD_DEFAULTS},
    "acceleration.channels_last": "auto",
    "checkpoint.save_last": True,
    "symmetry_trace.replays": 0,
}


class Parser(OneLineParser, LightningArgumentParser):
    """LightningCLI's parser with errors in one line."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse a command line; defaults that are members of a string enumeration become text, as YAML needs it."""
        return _without_enumerations(super().parse_args(*args, **kwargs))

    def valid_keys(self) -> tuple[str, ...]:
        """Return every dotted key of the default config."""
        return _valid_keys()


def _without_enumerations(content: Any) -> Any:
    if isinstance(content, Namespace):
        for key, value in vars(content).items():
            setattr(content, key, _without_enumerations(value))
    elif isinstance(content, list):
        return [_without_enumerations(each) for each in content]
    return str(content.value) if isinstance(content, str) and isinstance(content, Enum) else content


class ConfiguredCLI(LightningCLI):
    """LightningCLI with a section of keys for every part of an experiment."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=ConfigKeeper,
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
        """Add a section for every part of an experiment, so that a sweep can set it by a dotted key."""
        for key, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, key)
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        parser.add_argument("--run.dir", type=str | None, help="the run's folder (default: runs/<date and time>)")
        parser.add_argument("--run.test", type=bool, default=True, help="test the final weights after fitting")
        parser.add_function_arguments(wandb_logger, "wandb", skip={"run_dir", "config"})
        for name in ("num_classes", "in_channels"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.link_arguments("seeds.rounding", "rounding_noise.seed")
        for source, key in DATA_SEEDS.items():
            parser.link_arguments(f"seeds.{source}", f"data.init_args.{key}")
        parser.set_defaults(DEFAULTS)


class _ParserOnly(ConfiguredCLI):
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


def tree_of(parser: LightningArgumentParser, config: Any, links: bool = False) -> dict[str, Any]:
    """Return a parsed config of a command as plain nested mappings.

    Args:
        parser: The parser of all commands.
        config: Config that it parsed.
        links: Whether to keep values that are filled in from other ones (``model.init_args.num_classes``).
    """
    tree: Mapping[str, Any] = json.loads(
        parser.dump(config, skip_link_targets=not links, skip_unset=False, format="json")
    )
    return dict(tree[config.subcommand])


def resolve(args: list[str]) -> dict[str, Any]:
    """Parse ``["fit", "--config", ...]`` and return the resolved config under dotted keys; nothing is instantiated.

    Raises:
        UsageError: If an argument, key or value is not valid.
    """
    parser = build_parser()
    return flatten(tree_of(parser, parser.parse_args(prepare(args)), links=True))


@cache
def _valid_keys() -> tuple[str, ...]:
    return tuple(resolve(["fit"]))
