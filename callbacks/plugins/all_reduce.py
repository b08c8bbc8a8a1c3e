"""All-reduce of gradients that keeps identical channels identical."""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

# Renamed in torch 2.14, where the old name warns.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


def ordered_sum(rows: Tensor) -> Tensor:
    """Return ``((rows[0] + rows[1]) + rows[2]) + ...``, shape ``rows.shape[1:]``.

    Every element is rounded in the same sequence, unlike in ``rows.sum(0)``, whose order depends on the kernel.
    """
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def ordered_mean(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Future[Tensor]:
    r"""Average a flat tensor over the ranks of a group, every element in rank order.

    Rank r receives the r-th part of every rank's tensor, computes :math:`((g_0/N + g_1/N) + g_2/N) + \dots` and sends
    the result to all ranks. The traffic equals that of a ring: 2(N-1)/N of the tensor in and out of each rank.

    On CUDA the call is asynchronous. On a CPU it blocks: gloo matches collectives by the order in which each process
    starts them, and callbacks on its threads would start them in an arbitrary order.

    Args:
        tensor: Shape ``(n,)``, the same on every rank; not changed.
        group: Process group of the ranks; None for all.

    Returns:
        Future of the average, shape ``(n,)``, in the tensor's dtype.
    """
    world_size = dist.get_world_size(group)
    part = -(-tensor.numel() // world_size)
    mean = tensor.new_zeros(world_size * part)
    torch.div(tensor, world_size, out=mean[: tensor.numel()])
    received = torch.empty_like(mean)

    def exchanged(_: Future | None = None) -> Tensor:
        total = ordered_sum(received.view(world_size, part))
        _all_gather(mean, total, group=group)
        return mean[: tensor.numel()]

    exchange = dist.all_to_all_single(received, mean, group=group, async_op=True)
    assert exchange is not None
    if tensor.is_cuda:
        return exchange.get_future().then(exchanged)
    exchange.wait()
    result = Future()
    result.set_result(exchanged())
    return result


def ordered_all_reduce(state: dist.ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """Average a bucket of gradients over the ranks in rank order: a DDP communication hook.

    A ring all-reduce splits the bucket into chunks and sums each chunk starting from a different rank. With three or
    more ranks, sums in different orders round differently, and bitwise equal filters diverge across a chunk boundary.
    :func:`ordered_mean` sums every element in the same order. With two ranks the result equals the default bit for bit.

    Lightning's ``DDPStrategy(ddp_comm_hook=...)`` registers a hook on CUDA devices only and silently ignores it on
    others; :class:`OrderedDDPStrategy` registers this hook on all devices.

    Args:
        state: Process group of the ranks; None for all.
        bucket: Flat gradients, the same shape on every rank.

    Returns:
        Future of the averaged bucket.
    """
    return ordered_mean(bucket.buffer(), state)


class OrderedDDPStrategy(DDPStrategy):
    """Lightning's DDP with :func:`ordered_all_reduce`, on GPUs (NCCL) and CPUs (gloo).

    Args:
        process_group_backend: ``nccl``, ``gloo``, or None for the device's default.
        bucket_cap_mb: Size of a gradient bucket in MiB.
        find_unused_parameters: Whether parameters may stay without a gradient in a step.
        gradient_as_bucket_view: Whether gradients are views of the buckets, which saves a copy.
        static_graph: Whether the same parameters are used in every step.
        timeout: Timeout of collectives; None for Lightning's default.
    """

    def __init__(
        self,
        process_group_backend: str | None = None,
        bucket_cap_mb: int = 25,
        find_unused_parameters: bool = False,
        gradient_as_bucket_view: bool = False,
        static_graph: bool = False,
        timeout: timedelta | None = None,
    ) -> None:
        chosen: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        super().__init__(
            process_group_backend=process_group_backend,
            bucket_cap_mb=bucket_cap_mb,
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=gradient_as_bucket_view,
            static_graph=static_graph,
            **chosen,
        )

    def configure_ddp(self) -> None:
        """Wrap the model in DDP and register the hook."""
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        self.model.register_comm_hook(None, ordered_all_reduce)
