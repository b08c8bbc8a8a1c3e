"""Many run folders of any length in little time: filled by formulas, in the form of those that `symbreak fit` makes."""

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import yaml

LAYERS = [f"blocks.{i}" for i in range(6)]
WIDTHS = [16, 16, 32, 32, 64, 64]
META = {
    "started": "2026-05-04T10:00:00+00:00",
    "ended": "2026-05-04T10:00:31+00:00",
    "command": ["symbreak", "fit", "--config", "sweeps/configs/digits.yaml"],
    "process": {"host": "elsewhere", "pid": 1, "started": "1"},
    "package": {"version": "0.1.0"},
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
    "environment": {"torch": "2.15.0", "python": "3.11.2", "device": "cpu", "cuda": None, "world_size": 1},
    "determinism": {"cudnn_deterministic": True, "cudnn_benchmark": False, "deterministic_algorithms": True},
    "acceleration": {"compile": False, "channels_last": False, "precision": "32-true", "fused": [None]},
    "seeds": {"init": 0, "order": 0, "augmentation": 0, "dropout": 0, "rounding": 0},
    "output_layers": ["head"],
}


def config_of(
    seed: Any = 0,
    init: Any = "zero",
    noise: Any = 0.0,
    ulps: Any = 0.0,
    dropout: Any = 0.0,
    mode: Any = "strict",
    model: Any = "ConstNet",
    depth: Any = 10,
):
    arguments = {"depth": depth, "widen_factor": 1, "init": init, "noise_scale": noise, "dropout": dropout}
    return {
        "seed_everything": seed,
        "model": {"class_path": f"symbreak.lightning_modules.{model}", "init_args": arguments},
        "data": {"class_path": "symbreak.datamodules.DigitsDataModule", "init_args": {"batch_size": 128, "seed": seed}},
        "trainer": {"max_steps": 600, "devices": "auto", "num_nodes": 1, "precision": None, "callbacks": None},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.03, "momentum": 0.9}},
        "determinism": {"mode": mode, "allow_tf32": False},
        "rounding_noise": {"ulps": ulps},
        "symmetry_breaking": {"every_n_steps": 5, "threshold": 0.1},
        "run": {"dir": f"runs/{init}-{seed}"},
    }


ARMS = {
    "zero init, strict": {},
    "1 ulp rounding noise": {"ulps": 1.0},
    "1 % dropout": {"dropout": 0.01},
    "initial noise 1e-3": {"noise": 1e-3},
    "He init": {"init": "he"},
}


def start_of(config):
    """Asymmetry that the sources of a configuration start from."""
    arguments = config["model"]["init_args"]
    sources = [arguments["noise_scale"], 4e-9 * config["rounding_noise"]["ulps"], 0.2 * arguments["dropout"]]
    return 0.8 if arguments["init"] == "he" else max(sources)


def history_of(config, steps, rng, every=5, layers=None):
    """Rows of metrics.csv: symmetry and diversity every few steps, accuracy at the end of each epoch."""
    layers, widths = layers or LAYERS, WIDTHS
    start, delay, rate = start_of(config), rng.randrange(0, 24, 4), 0.055
    rows = []
    for step in range(0, steps + 1, every):
        asymmetry = [grown(start * (1 + 0.3 * i), rate * max(0, step - delay)) for i in range(len(layers))]
        row = {"step": step, "epoch": step // 50, "symmetry/max_feature_asymmetry": max(asymmetry)}
        for i, layer in enumerate(layers):
            wide, value = widths[i % len(widths)], asymmetry[i]
            alike = 1 - 0.97 * min(1, value)
            row[f"symmetry/feature_asymmetry/{layer}"] = value
            row[f"symmetry/distinct_filters/{layer}"] = wide if value and (step or start > 1e-5) else 1
            row[f"diversity/forward_correlation/{layer}"] = alike
            row[f"diversity/backward_correlation/{layer}"] = alike**2
        row["symmetry/distinct_filters/head"] = 10 if step else 1
        row["diversity/forward_correlation"] = alike
        row["diversity/backward_correlation"] = alike**2
        row["diversity/stable_rank_change"] = 1 + 6 * min(1, value)
        rows.append(row)
        learned = min(1, max(asymmetry)) * min(1, step / 150)
        accuracy = 0.1 + 0.17 * min(1, step / 200) + 0.7 * learned
        loss = 2.3 * math.exp(-3 * (accuracy - 0.1)) + 0.05 * rng.random()
        rows.append({"step": step, "train/loss": loss, "train/accuracy": accuracy})
        if step and step % 50 == 0:
            rows.append({"step": step, "val/accuracy": accuracy - 0.01, "val/loss": loss + 0.02})
    return rows


def grown(start, exponent):
    return start and 0.7 * start * math.exp(min(exponent, 700)) / (0.7 + start * math.expm1(min(exponent, 700)))


def write_run(folder, config, steps=600, arm=None, status="finished", error=None, number=0, layers=None, seed=None):
    """Writes one run folder and returns it."""
    rng = random.Random(config["seed_everything"] if seed is None else seed)
    rows = history_of(config, steps, rng, layers=layers)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    write_csv(folder / "metrics.csv", rows)
    level = config["symmetry_breaking"]["threshold"]
    (folder / "summary.json").write_text(json.dumps(summary_of(rows, status, level)))
    (folder / "run.json").write_text(json.dumps(META | {"status": status, "error": error}))
    if arm is not None:
        point = {"sweep": "quickstart", "number": number, "arm": arm, "parameters": {"seed_everything": 0}}
        (folder / "point.json").write_text(json.dumps(point))
    return folder


def write_csv(path, rows):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def summary_of(rows, status, level):
    summary = {key: value for row in rows for key, value in row.items()}
    key = "symmetry/max_feature_asymmetry"
    measured = [row for row in rows if key in row]
    for name, least in (("broken_step", 1e-300), ("escape_step", level)):
        reached = [row["step"] for row in measured if row[key] >= least]
        summary |= {f"symmetry/{name}": reached[0]} if reached else {}
    if summary.get("symmetry/escape_step", 0) > 0:
        summary["symmetry/growth_rate"] = 0.055
        summary["symmetry/growth_rate_r2"] = 0.99
    if status == "finished":
        split = "val" if "val/accuracy" in summary else "train"
        summary |= {"test/accuracy": summary[f"{split}/accuracy"] - 0.005, "test/loss": summary[f"{split}/loss"]}
    return summary


def write_sweep(root, seeds=2, steps=600):
    """The five arms of the quickstart."""
    number = 0
    for arm, changes in ARMS.items():
        for seed in range(seeds):
            write_run(root / f"{number}-run", config_of(seed, **changes), steps, arm, number=number)
            number += 1
    return root


def write_noise_law(root, seeds=3, scales=(1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2), ulps=(1, 10, 100)):
    """Initial noise against rounding noise, several seeds; arms carry no label."""
    points = [{"noise": scale} for scale in scales] + [{"ulps": float(ulp)} for ulp in ulps] + [{}]
    for number, (changes, seed) in enumerate((changes, seed) for changes in points for seed in range(seeds)):
        write_run(root / f"{number}-noise", config_of(seed, **changes), 600, number=number, seed=number)
    return root


def write_large(root: Path, runs=200, steps=1000, keys=100):
    """Many long runs: one body of numbers, written again and again, since only reading is measured."""
    rng = random.Random(0)
    names = [f"symmetry/feature_asymmetry/blocks.{i}" for i in range(keys // 4)]
    names += [f"symmetry/distinct_filters/blocks.{i}" for i in range(keys // 4)]
    names += [f"diversity/forward_correlation/blocks.{i}" for i in range(keys // 4)]
    names += ["symmetry/max_feature_asymmetry", "val/accuracy", "train/loss"]
    names += [f"diversity/backward_correlation/blocks.{i}" for i in range(keys - len(names))]
    header = ",".join(["step", *names]) + "\n"
    lines = [",".join([str(step), *(repr(rng.random()) for _ in names)]) + "\n" for step in range(steps)]
    body = header + "".join(lines)
    for number in range(runs):
        folder = root / f"{number}-large"
        folder.mkdir(parents=True)
        config = config_of(number % 5, noise=10.0 ** -(number // 5 % 20))
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "metrics.csv").write_text(body)
        (folder / "run.json").write_text(json.dumps(META | {"status": "finished", "error": None}))
    return root
