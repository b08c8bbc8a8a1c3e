"""The short help of `symbreak fit|validate|test`; the list of all keys is the parser's own help."""

from __future__ import annotations

from textwrap import fill

from symbreak.sweeps.paths import shipped_configs
from symbreak.sweeps.run.arguments import SECTIONS

SUMMARIES = {
    "fit": "Train one network from a config, then test it. A run leaves a folder, runs/<date and time> by default.",
    "validate": "Validate the weights of a checkpoint.",
    "test": "Test the weights of a checkpoint.",
}
EXAMPLES = {
    "fit": (
        "symbreak fit --config digits",
        "symbreak fit --config digits --config arms/he --trainer.max_steps 200 --run.dir runs/he",
        "symbreak fit --config digits --model.init_args.noise_scale 1e-4 --rounding-noise.ulps 1",
        "symbreak fit --config digits --optimizer Adam --optimizer.init_args.lr 1e-3",
        "symbreak fit --ckpt_path runs/he/checkpoints/last.ckpt --run.dir runs/he --trainer.max_steps 400",
    ),
    "validate": ("symbreak validate --ckpt_path runs/he/checkpoints/last.ckpt",),
    "test": ("symbreak test --ckpt_path runs/he/checkpoints/last.ckpt --data.init_args.batch_size 256",),
}
OPTIONS = {
    "--config FILE, -c": "a YAML file, or the name of a shipped config; of several, later ones win",
    "--ckpt_path FILE": "the checkpoint to go on from, with the settings of its run; options beside it win",
    "--seed_everything N": "seed of weights, data order and noise (default: 0)",
    "--print_config": "print the resolved config and exit",
    "--help=all": "list every key with its default",
    "--model.help CLASS": "list the arguments of one network; data, optimizer and lr_scheduler have the same",
}


def is_short(args: list[str]) -> bool:
    """Return whether a command line asks for the short help."""
    return any(word in ("--help", "-h") for word in args)


def short_help(command: str) -> str:
    """Return the help of a command in one screen: examples, options, sections of keys, shipped configs."""
    width = max(len(name) for name in SECTIONS) + 8
    lines = [f"usage: symbreak {command} [--config FILE] [--SECTION.KEY VALUE ...]", "", SUMMARIES[command], ""]
    lines += ["examples:", *(f"  {example}" for example in EXAMPLES[command]), ""]
    lines += ["options:", *(f"  {name:<{width}}{text}" for name, text in OPTIONS.items()), ""]
    lines += ["sections of keys, the same in a config, on the command line and in a sweep:"]
    lines += [f"  {'--' + name + '.KEY':<{width}}{text}" for name, text in SECTIONS.items()]
    lines += [
        "",
        "shipped configs:",
        fill(", ".join(shipped_configs()), 100, initial_indent="  ", subsequent_indent="  "),
    ]
    return "\n".join(lines)
