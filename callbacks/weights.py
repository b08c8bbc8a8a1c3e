"""Read the weight of a layer as the next forward pass uses it: masked, normalised, gathered."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MEASURED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, nn.MultiheadAttention)


def readers(module: nn.Module) -> list[tuple[str, Callable[[], Tensor], int, str]]:
    """Return name suffix, reader of shape (C_out, C_in, ...), spatial axes and attribute of each weight of a module."""
    if isinstance(module, CONVOLUTIONS):
        return [("", lambda: read(module, "weight"), len(module.kernel_size), "weight")]
    if isinstance(module, TRANSPOSED):
        return [("", lambda: _by_output(read(module, "weight"), module.groups), len(module.kernel_size), "weight")]
    if isinstance(module, nn.Linear):
        return [("", lambda: read(module, "weight"), 0, "weight")]
    if isinstance(module, nn.MultiheadAttention):
        packed = module.in_proj_weight is not None
        return [
            (f".{part}_proj", _projection(module, i), 0, "in_proj_weight" if packed else f"{part}_proj_weight")
            for i, part in enumerate("qkv")
        ]
    return []


def source(module: nn.Module, name: str) -> Tensor:
    """Return the tensor from which a weight is computed; the same object for tied weights."""
    if parametrize.is_parametrized(module, name):
        stored = cast(nn.ModuleDict, module.parametrizations)[name]
        return cast(Tensor, getattr(stored, "original", None) if hasattr(stored, "original") else stored.original0)
    for original in (f"{name}_orig", f"{name}_v"):  # of pruning and spectral_norm, of weight_norm
        if original in module._parameters:
            return cast(Tensor, module._parameters[original])
    return getattr(module, name)


def read(module: nn.Module, name: str) -> Tensor:
    """Return a weight as the next forward pass computes it; a sharded weight is gathered (a collective).

    A parametrized weight is computed in evaluation mode, because spectral_norm updates its state when it is read in
    training mode. Pruning, the old weight_norm and the old spectral_norm write the weight in a forward pre-hook, so
    that the attribute is one update old: their computation is applied here. Other pre-hooks are not run.
    """
    if parametrize.is_parametrized(module, name):
        return gathered(_parametrized(module, name))
    for hook in module._forward_pre_hooks.values():
        if getattr(hook, "_tensor_name", None) == name and isinstance(hook, BasePruningMethod):
            return gathered(hook.apply_mask(module))
        if isinstance(hook, WeightNorm) and hook.name == name:
            return gathered(hook.compute_weight(module))
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return gathered(hook.compute_weight(module, do_power_iteration=False))
    return gathered(getattr(module, name))


def is_sharded(weight: Tensor) -> bool:
    """Return whether a weight is distributed over processes (FSDP2, tensor parallelism)."""
    return hasattr(weight, "full_tensor")


def gathered(tensor: Tensor) -> Tensor:
    """Return a sharded tensor gathered over all its ranks (a collective); any other tensor unchanged."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def check_readable(name: str, module: nn.Module, weight: Tensor) -> None:
    """Raise an error if a weight does not have the layer's shape.

    Raises:
        ValueError: If the weight has no shape yet, or is a flat shard.
    """
    kind = type(module).__name__
    if isinstance(weight, UninitializedParameter):
        raise ValueError(f"{name} ({kind}) has no weight yet: run one batch through the network before fit")
    if weight.ndim < 2:
        raise ValueError(
            f"the weight of {name} ({kind}) has shape {tuple(weight.shape)}: flat shards (FSDPStrategy, DeepSpeed "
            "ZeRO 3) cannot be measured; use DDP or ModelParallelStrategy (FSDP2)"
        )


def unmeasured(root: nn.Module) -> list[str]:
    """Return name and type of modules whose matrices are not measured, such as recurrent layers."""
    owners = [module for module in root.modules() if isinstance(module, MEASURED)]
    measured = {id(parameter) for module in owners for parameter in module.parameters()}
    found = []
    for name, module in root.named_modules():
        own = [key for key, parameter in module._parameters.items() if _is_matrix(parameter, measured)]
        if own and type(module).__module__.startswith("torch.nn"):
            found.append(f"{name} ({type(module).__name__})")
        else:
            found.extend(f"{name}.{key}".removeprefix(".") for key in own)
    return found


def _is_matrix(parameter: nn.Parameter | None, measured: set[int]) -> bool:
    return (
        parameter is not None
        and id(parameter) not in measured
        and not isinstance(parameter, UninitializedParameter)
        and parameter.ndim > 1
        and parameter.numel() > max(parameter.shape)
    )


def _parametrized(module: nn.Module, name: str) -> Tensor:
    own = cast(nn.ModuleDict, module.parametrizations)[name]
    training = {part: part.training for part in own.modules()}
    own.eval()
    try:
        return getattr(module, name)
    finally:
        for part, mode in training.items():
            part.training = mode


def _projection(attention: nn.MultiheadAttention, index: int) -> Callable[[], Tensor]:
    def weight() -> Tensor:
        if attention.in_proj_weight is not None:
            return read(attention, "in_proj_weight").chunk(3)[index]
        return read(attention, ("q_proj_weight", "k_proj_weight", "v_proj_weight")[index])

    return weight


def _by_output(weight: Tensor, groups: int) -> Tensor:
    """Return a transposed convolution's weight (C_in, C_out / groups, ...) as (C_out, C_in / groups, ...)."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
