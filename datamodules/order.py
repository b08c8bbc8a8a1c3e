"""In which order samples are seen, and which rank sees which."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symbreak.datamodules.randomness import generator


@dataclass
class TrainingOrder:
    """A new permutation of the training samples every epoch, cut into global batches that the ranks share.

    Global batch b is the same set of samples whatever the number of ranks, if `batch_size * world_size` is the same.
    The last samples of a permutation, too few for a global batch, are left out in that epoch.

    Args:
        indices: The training samples, shape (N,).
        batch_size: Samples per batch and rank.
        seed: Seed of the permutations.
        rank: This process among `world_size`.
        world_size: Number of processes.
        shuffle: Keep `indices` in their order when False.
    """

    indices: Tensor
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    epoch: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError where not even one global batch is full."""
        if not len(self):
            raise ValueError(
                f"{len(self.indices)} training samples do not fill one batch: batch_size={self.batch_size} "
                f"on {self.world_size} rank(s) takes {self.global_batch_size}"
            )

    @property
    def global_batch_size(self) -> int:
        """Samples per batch over all ranks."""
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
    """Cut samples into shards, one per rank, and this rank's shard into batches.

    The shards are disjoint and together hold every sample once. All ranks get the same number of batches, none of them
    empty, because DistributedDataParallel may synchronise buffers in every forward pass; so sizes differ by one.

    Args:
        indices: The samples to evaluate, shape (N,).
        batch_size: Largest batch (one more where `batch_size` 1 does not come out even).
        rank: This process among `world_size`.
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
