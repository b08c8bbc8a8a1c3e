import pytest
import torch
import torch.distributed as dist
from tests.callbacks.plugins.test_all_reduce import Layer, channels
from tests.gpu.device import needs_cuda
from torch.nn.parallel import DistributedDataParallel

from symbreak.callbacks import ordered_all_reduce
from symbreak.sweeps.audit.processes import run_ranks

pytestmark = needs_cuda


def reduced():
    """The gradient that the ordered reduction gives on NCCL, twice through the same buckets."""
    rank = dist.get_rank()
    network = DistributedDataParallel(Layer(torch.float32).cuda(), device_ids=[rank])
    network.register_comm_hook(None, ordered_all_reduce)
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network(channels(rank).cuda()).backward()
        gradients.append(network.module.weight.grad.cpu())
    return gradients


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_nccl_sums_in_rank_order(world_size):
    if torch.cuda.device_count() < world_size:
        pytest.skip(f"needs {world_size} GPUs")
    expected = channels(0) / world_size
    for rank in range(1, world_size):
        expected = expected + channels(rank) / world_size
    for gradients in run_ranks(reduced, world_size, backend="nccl"):
        assert all(torch.equal(gradient, expected) for gradient in gradients)
