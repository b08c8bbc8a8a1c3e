"""Sample order, and the assignment of samples to ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symbreak.datamodules.randomness import generator


@dataclass
class TrainingOrder:
    """A permutation of the training samples per epoch, split into global batches and then over ranks.

    Global batch b holds the same samples for any number of ranks with the same `batch_size * world_size`. The last,
    incomplete global batch of an epoch is dropped.

    Args:
        indices: The training samples, shape (N,).
        batch_size: Samples per batch and rank.
        seed: Seed of the permutations.
        rank: Rank of this process.
        world_size: Number of processes.
        shuffle: Permute `indices` every epoch; False keeps their order.
    """

    indices: Tensor
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    epoch: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError if the samples do not fill one global batch."""
        if not len(self):
            raise ValueError(
                f"{len(self.indices)} training samples do not fill one batch: batch_size={self.batch_size} "
                f"on {self.world_size} rank(s) takes {self.global_batch_size}"
            )

    @property
    def global_batch_size(self) -> int:
        """Return the number of samples per batch over all ranks."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        return len(self.indices) // self.global_batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this before every epoch."""
        self.epoch = epoch

    def batches(self) -> Tensor:
        """Return this rank's samples in the current epoch, shape (number of batches, batch_size)."""
        order = self.indices
        if self.shuffle:
            order = order[torch.from_numpy(generator(self.seed, self.epoch, "order").permutation(len(order)))]
        whole = order[: len(self) * self.global_batch_size]
        return whole.view(len(self), self.world_size, self.batch_size)[:, self.rank]


def evaluation_batches(indices: Tensor, batch_size: int, rank: int = 0, world_size: int = 1) -> list[Tensor]:
    """Split samples into one shard per rank, and return the batches of this rank's shard.

    Every sample is in exactly one shard. All ranks have the same number of non-empty batches, because
    DistributedDataParallel may synchronise buffers in every forward pass; batch sizes therefore differ by up to one.

    Args:
        indices: The samples to evaluate, shape (N,).
        batch_size: Largest batch (2 if `batch_size` is 1 and the shards are unequal).
        rank: Rank of this process.
        world_size: Number of processes.

    Returns:
        This rank's batches of indices.

    Raises:
        ValueError: If there are fewer samples than ranks.
    """
    if len(indices) < world_size:
        raise ValueError(f"{len(indices)} evaluation samples cannot be shared by {world_size} ranks")
    largest_shard = -(-len(indices) // world_size)
    count = min(-(-largest_shard // batch_size), len(indices) // world_size)
    return list(indices.tensor_split(world_size)[rank].tensor_split(count))
