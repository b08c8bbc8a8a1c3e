"""Weights of checkpoints: files of torch.save, safetensors, and sharded checkpoints by their index file."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from symbreak.callbacks.checkpoint_files import unreadable
from symbreak.sweeps.errors import UsageError

NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which checkpoints keep the weights."""


class StoredWeights(Mapping[str, Tensor]):
    """Weights of a checkpoint, each read on access and not cached.

    Args:
        path: file of ``torch.save``, safetensors file or index file.

    Raises:
        UsageError: If a file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._places: dict[str, tuple[Path, str]] = {}
        files: dict[Path, list[str]] = {}
        self._files = shards(path)
        for name, file in self._files.items():
            files.setdefault(file, []).append(name)
        for file, names in files.items():
            for name, (shape, floating) in _shapes(file, names).items():
                if floating and len(shape) > 1 and min(shape):
                    self._places |= dict.fromkeys(_names(name), (file, name))

    def __getitem__(self, layer: str) -> Tensor:
        file, name = self._places[layer]
        return _named(name, _tensor(file, name))[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def bias(self, layer: str) -> Tensor | None:
        """Return the bias beside a layer's weight, (C_out,), or None if there is none."""
        _, name = self._places[layer]
        if not name.endswith("weight"):
            return None
        name = f"{name.removesuffix('weight')}bias"
        bias = _tensor(self._files[name], name) if name in self._files else None
        if bias is not None and name.endswith("in_proj_bias"):
            bias = bias.chunk(3)["qkv".index(layer[-len("q_proj")])]
        return bias


def shards(path: Path) -> dict[str, Path]:
    """Return the file of each tensor of a checkpoint: the file itself, or those that an index file names.

    Raises:
        UsageError: If the file cannot be read.
    """
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return dict.fromkeys(file.keys(), path)
    if path.suffix != ".json":
        state = _read_state(path)
        return {name: path for name in state if isinstance(name, str) and isinstance(state[name], Tensor)}
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


def _shapes(path: Path, names: list[str]) -> dict[str, tuple[list[int], bool]]:
    """Return the shape of each named tensor of a file, and whether it is of floating-point numbers."""
    if path.suffix != ".safetensors":
        state = _read_state(path)
        tensors = {name: _of(state, path, name) for name in names}
        return {name: (list(tensor.shape), tensor.is_floating_point()) for name, tensor in tensors.items()}
    with _opened(path) as file:
        if missing := set(names) - set(file.keys()):
            raise UsageError(f"{path} has no tensor {min(missing)!r}, which the index file names")
        parts = {name: file.get_slice(name) for name in names}
        return {name: (part.get_shape(), part.get_dtype().startswith(("F", "BF"))) for name, part in parts.items()}


def _tensor(path: Path, name: str) -> Tensor:
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return file.get_tensor(name)
    return _of(_read_state(path), path, name)


def _of(state: Mapping[str, Any], path: Path, name: str) -> Tensor:
    if not isinstance(state.get(name), Tensor):
        raise UsageError(f"{path} has no tensor {name!r}, which the index file names")
    return state[name]


def read_weights(path: Path) -> StoredWeights:
    """Return the weights in a checkpoint by the names of their layers, to be read tensor by tensor.

    Args:
        path: A file of ``torch.save`` (only tensors and plain Python values are read, never code), a safetensors file,
            or the index file (``*.index.json``) of a sharded checkpoint.

    Returns:
        Every floating-point tensor of two or more dimensions whose name ends in ``weight``.

    Raises:
        UsageError: If it is none of these.
    """
    return StoredWeights(path)


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
        # A mapped file is read tensor by tensor, when values are used; files before PyTorch 1.6 cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # foreign bytes make the reader raise almost anything
        remedy = "; save the network's state_dict() alone" if isinstance(error, pickle.UnpicklingError) else ""
        raise UsageError(f"{unreadable(path, error)}{remedy}") from error
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
