"""Weights of checkpoints: files of torch.save, safetensors, and sharded checkpoints by their index file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from symbreak.sweeps.errors import UsageError

NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which checkpoints keep the weights."""


class StoredWeights(Mapping[str, Tensor]):
    """Weights of a safetensors file or a sharded checkpoint, each read on access and not cached.

    Args:
        path: safetensors file or index file.

    Raises:
        UsageError: If a file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._places: dict[str, tuple[Path, str]] = {}
        for name, file in shards(path).items():
            shape, floating = _shape(file, name)
            if floating and len(shape) > 1 and min(shape):
                self._places |= dict.fromkeys(_names(name), (file, name))

    def __getitem__(self, layer: str) -> Tensor:
        file, name = self._places[layer]
        return _named(name, _tensor(file, name))[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def shards(path: Path) -> dict[str, Path]:
    """Return the file of each tensor of a safetensors file, or of the checkpoint whose index file this is.

    Raises:
        UsageError: If it is neither.
    """
    if path.suffix != ".json":
        with _opened(path) as file:
            return dict.fromkeys(file.keys(), path)
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): path.parent / Path(file).name for name, file in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not the index file of a sharded checkpoint: no weight_map") from error


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} is not a safetensors file: {error}") from error


def _shape(path: Path, name: str) -> tuple[list[int], bool]:
    if path.suffix != ".safetensors":
        tensor = _tensor(path, name)
        return list(tensor.shape), tensor.is_floating_point()
    with _opened(path) as file:
        if name not in file.keys():  # noqa: SIM118 (no mapping)
            raise UsageError(f"{path} has no tensor {name!r}, which the index file names")
        part = file.get_slice(name)
        return part.get_shape(), part.get_dtype().startswith(("F", "BF"))


def _tensor(path: Path, name: str) -> Tensor:
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return file.get_tensor(name)
    state = _read_state(path)
    if not isinstance(state.get(name), Tensor):
        raise UsageError(f"{path} has no tensor {name!r}, which the index file names")
    return state[name]


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read the weights in a checkpoint, by the names of their layers.

    Args:
        path: A file of ``torch.save`` (only tensors and plain Python values are read, never code), a safetensors file,
            or the index file (``*.index.json``) of a sharded checkpoint; the last two are read tensor by tensor.

    Returns:
        Every floating-point tensor of two or more dimensions whose name ends in ``weight``.

    Raises:
        UsageError: If it is none of these.
    """
    if path.suffix in (".safetensors", ".json"):
        return StoredWeights(path)
    weights: dict[str, Tensor] = {}
    for name, value in _read_state(path).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 and value.numel():
            weights |= _named(str(name), value)
    return weights


def load(network: nn.Module, path: Path) -> None:
    """Load a checkpoint into a network.

    Raises:
        UsageError: If the file cannot be read, or its weights' names or shapes differ from the network's.
    """
    try:
        network.load_state_dict(dict(_read_state(path)))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} does not fit the network: {reason[:300]}") from error


def _read_state(path: Path) -> Mapping[str, Any]:
    if path.suffix in (".safetensors", ".json"):
        files = shards(path)
        return {name: _tensor(file, name) for name, file in files.items()}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = "holds Python objects, which are not unpickled here, or is no checkpoint"
        raise UsageError(f"{path} {what}; save the network's state_dict() alone") from error
    except Exception as error:  # foreign bytes make the reader raise almost anything
        reason = "".join(f": {line}" for line in str(error).splitlines()[:1])
        raise UsageError(f"{path} is not a file of torch.save{reason}") from error
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a state_dict")
    return content


def _names(name: str) -> list[str]:
    layer, _, kind = name.rpartition(".")
    if kind == "in_proj_weight":
        return [f"{layer}.{part}_proj" for part in "qkv"]
    return list(_named(name, torch.empty(0)))


def _named(name: str, weight: Tensor) -> dict[str, Tensor]:
    layer, _, kind = name.rpartition(".")
    if kind == "in_proj_weight":
        return {f"{layer}.{part}_proj": part_weight for part, part_weight in zip("qkv", weight.chunk(3), strict=True)}
    if kind.endswith("_proj_weight"):
        return {f"{layer}.{kind.removesuffix('_weight')}": weight}
    return {layer or name: weight} if kind == "weight" else {}
