"""What each initialisation does at depth 500 without normalisation, on scikit-learn's digits, as JSON.

    python tests/benchmarks/depth.py --output depth.json

For each scheme: the mean square of the features after the last block over that after the first (at initialisation),
the loss at every step, the step at which it stopped being finite (null: never), the test accuracy, seconds per step.
"""

import argparse
import json
import math
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from symbreak.lightning_modules import ResNet

SCHEMES = ("hadamard", "partial_identity", "fixup", "rezero", "skipinit", "he", "xavier", "orthogonal")
TEST = 360


def load(device: torch.device) -> tuple[Tensor, Tensor]:
    """Digits (1797, 1, 8, 8), standardised, and their labels."""
    digits: Any = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1)
    return ((images - images.mean()) / images.std()).to(device), torch.from_numpy(digits.target).to(device)


def growth(network: Any, images: Tensor) -> float:
    """Mean square after the last block relative to that after the first."""
    squares: list[float] = []
    handles = [
        block.register_forward_hook(lambda layer, args, output: squares.append(output.double().square().mean().item()))
        for block in (network.network.blocks[0], network.network.blocks[-1])
    ]
    with torch.no_grad():
        network.eval()(images)
    network.train()
    for handle in handles:
        handle.remove()
    return squares[1] / squares[0]


def run(scheme: Any, options: argparse.Namespace, images: Tensor, targets: Tensor) -> dict[str, Any]:
    """Train one network from one scheme."""
    torch.manual_seed(options.seed)
    checkpointing = options.checkpointing
    network = ResNet(
        options.depth, "cifar", 10, 1, scheme, norm="scalar", width=options.width, checkpointing=checkpointing
    ).to(images.device)
    result: dict[str, Any] = {"scheme": scheme, "mean_square_growth": growth(network, images[:128]), "losses": []}
    optimiser = torch.optim.SGD(network.parameters(), lr=options.lr, momentum=0.9)
    generator = torch.Generator().manual_seed(options.seed)
    begin = time.perf_counter()
    for _ in range(options.steps):
        rows = torch.randint(TEST, len(images), (options.batch_size,), generator=generator).to(images.device)
        loss = network.training_step((images[rows], targets[rows]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip)
        optimiser.step()
        if not math.isfinite(loss.item()):
            break
        result["losses"].append(loss.item())
    steps = len(result["losses"])
    result["seconds_per_step"] = (time.perf_counter() - begin) / max(steps, 1)
    is_finite = steps == options.steps
    result["failed_at_step"] = None if is_finite else steps
    with torch.no_grad():
        guesses = network.eval()(images[:TEST]).argmax(1)
    result["test_accuracy"] = (guesses == targets[:TEST]).double().mean().item() if is_finite else None
    return result


def main() -> None:
    """Run every scheme and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("depth.json"))
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, choices=SCHEMES)
    parser.add_argument("--depth", type=int, default=500)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, targets = load(device)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    report: dict[str, Any] = {
        "options": {key: value for key, value in vars(options).items() if key != "output"},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "commit": commit,
        "runs": [],
    }
    for scheme in options.schemes:
        report["runs"].append(run(scheme, options, images, targets))
        last = report["runs"][-1]
        print(
            f"{scheme:16} growth {last['mean_square_growth']:.3g}  loss {last['losses'][:1]} -> {last['losses'][-1:]}  "
            f"failed at {last['failed_at_step']}  test accuracy {last['test_accuracy']}",
            flush=True,
        )
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
