"""Random state and running metrics of a process, as plain values and tensors that need no unpickling of objects."""

import random
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the global generators of Python, numpy and torch, and of the device if it is a GPU."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [
            str(name),
            torch.tensor(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the generators to a state returned by :func:`random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def metric_states(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Return the running values of all torchmetrics in a module, by dotted name, in host memory."""
    metrics = ((name, child) for name, child in module.named_modules() if isinstance(child, Metric))
    return {
        name: {"updates": metric.update_count, "values": {key: _on_host(x) for key, x in metric.metric_state.items()}}
        for name, metric in metrics
    }


def _on_host(values: Any) -> Any:
    return [each.cpu() for each in values] if isinstance(values, list) else values.cpu()


def set_metric_states(module: torch.nn.Module, states: dict[str, dict[str, Any]]) -> None:
    """Set the running values returned by :func:`metric_states`, on each metric's device."""
    for name, state in states.items():
        metric = module.get_submodule(name)
        assert isinstance(metric, Metric), name
        for key, value in state["values"].items():
            on_device = (
                [each.to(metric.device) for each in value] if isinstance(value, list) else value.to(metric.device)
            )
            setattr(metric, key, on_device)
        metric._update_count = state["updates"]
