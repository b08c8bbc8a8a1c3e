"""Kernels that the measurements launch on an accelerator: operations on meta tensors, which take its branch."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from symbreak.callbacks import FeatureDiversity, SignalPropagation, SymmetryBreaking
from symbreak.callbacks.functional.distinct import _multipliers
from symbreak.callbacks.layers import FeatureLayer, WeightLayer
from symbreak.callbacks.stacks import Features, stacks

ALLOCATES = ("empty", "new_empty", "empty_like", "_unsafe_view", "_reshape_alias", "lift_fresh")


class Launches(TorchDispatchMode):
    """Lists operations except views and allocations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        views = [each.alias_info for each in func._schema.returns]
        if name not in ALLOCATES and not any(alias is not None and not alias.is_write for alias in views):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def weights_of(shape, count, dtype):
    tensors = [torch.empty(shape, dtype=dtype, device="meta") for _ in range(count)]
    return [(WeightLayer(str(i), str(i), lambda x=x: x, 0, (i, "")), None) for i, x in enumerate(tensors)]


def measure_all(layers):
    for stack, _ in stacks(layers):
        for callback in (FeatureDiversity(), SymmetryBreaking()):
            assert callback.measure_weights(stack) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 32, 3, 3), (640, 640, 3, 3), (32, 32)])
def test_a_group_of_equal_weight_layers_launches_at_most_40(shape, dtype):
    layers = weights_of(shape, 4, dtype)
    measure_all(layers)  # multipliers of the hash are made once
    with Launches() as launches:
        measure_all(layers)
    assert 10 < len(launches.names) <= 40, launches.names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 64, 16, 16), (8, 128)])
def test_a_feature_layer_launches_at_most_15(shape, dtype):
    output = torch.empty(shape, dtype=dtype, device="meta", requires_grad=True).clone()
    layer = FeatureLayer("layer", torch.nn.Identity(), 2 if len(shape) == 4 else 0, ("layer",))
    callbacks = FeatureDiversity(), SymmetryBreaking(), SignalPropagation()
    with Launches() as launches:
        features = Features(output, 1)
        for callback in callbacks:
            callback._observe(layer, features)
        callbacks[-1]._on_gradient("layer", torch.empty_like(output))
        callbacks[-1]._sums("layer", callbacks[-1]._signals["layer"])
    assert 10 < len(launches.names) <= 15, launches.names


def test_what_is_counted_is_what_is_launched():
    x = torch.empty(4, 4, device="meta")
    with Launches() as launches:
        (x.flatten()[2:] + 1).view(2, 7).T.sum()
    assert launches.names == ["add", "sum"]


def test_multipliers_are_kept():
    device = torch.device("meta")
    assert _multipliers(7, device) is _multipliers(7, device)
