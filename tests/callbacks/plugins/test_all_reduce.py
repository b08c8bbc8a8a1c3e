import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel

from symbreak.callbacks import ordered_all_reduce
from symbreak.callbacks.plugins import ordered_sum
from symbreak.sweeps.audit.processes import run_ranks

CHANNELS, FAN_IN = 64, 9
WORLD_SIZES = (1, 2, 3, 4)


def channels(rank, dtype=torch.float32):
    """Identical rows, different on every rank."""
    row = torch.randn(FAN_IN, generator=torch.Generator().manual_seed(rank), dtype=dtype)
    return row.expand(CHANNELS, FAN_IN)


class Layer(torch.nn.Module):
    """Gradients: the input for the weight, 1 to 5 for the bias (so that the bucket has an odd length)."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(CHANNELS, FAN_IN, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.zeros(5, dtype=dtype))

    def forward(self, x):
        return (self.weight * x).sum() + (self.bias * torch.arange(1, 6, device=x.device)).sum()


def gradient(hook, dtype, group):
    network = DistributedDataParallel(Layer(dtype), process_group=group)
    if hook is not None:
        network.register_comm_hook(group, hook)
    network(channels(dist.get_rank(group), dtype)).backward()
    return network.module.weight.grad, network.module.bias.grad


def reductions():
    """Every reduced gradient, by (world size, dtype, hook)."""
    found = {}
    for world_size in WORLD_SIZES:
        group = dist.new_group(list(range(world_size)))
        if dist.get_rank() < world_size:
            for dtype in (torch.float32, torch.float64, torch.bfloat16):
                for hook in (None, ordered_all_reduce):
                    found[world_size, dtype, hook and "ordered"] = gradient(hook, dtype, group)
    return found


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(reductions, max(WORLD_SIZES))


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_element_is_the_mean_in_rank_order(ranks, world_size, dtype):
    expected = channels(0, dtype) / world_size
    for rank in range(1, world_size):
        expected = expected + channels(rank, dtype) / world_size
    for found in ranks[:world_size]:
        weight, bias = found[world_size, dtype, "ordered"]
        assert torch.equal(weight, expected)
        assert len(weight.unique(dim=0)) == 1
        assert bias.tolist() == pytest.approx([1, 2, 3, 4, 5], rel=1e-2)


@pytest.mark.parametrize(("world_size", "same"), [(1, True), (2, True), (3, False), (4, False)])
def test_the_default_reduction_keeps_channels_identical_up_to_two_ranks(ranks, world_size, same):
    default, _ = ranks[0][world_size, torch.float32, None]
    ordered, _ = ranks[0][world_size, torch.float32, "ordered"]
    assert (len(default.unique(dim=0)) == 1) is same
    assert torch.equal(default, ordered) is same
    torch.testing.assert_close(default, ordered)


def test_ordered_sum_is_a_left_fold():
    rows = torch.tensor([[1e8, 1.0], [1.0, 1e8], [-1e8, -1e8]])
    assert ordered_sum(rows).tolist() == [0.0, 0.0]
    assert ordered_sum(rows[[0, 2, 1]]).tolist() == [1.0, 0.0]
    assert ordered_sum(rows[:1]).tolist() == rows[0].tolist()


def test_a_rank_that_fails_fails_the_call():
    with pytest.raises(ProcessRaisedException, match="ZeroDivisionError"):
        run_ranks(divide, 2, 1, 0)


def divide(a, b):
    return a // b
