import numpy as np
import pytest
import torch

from symbreak.datamodules.order import TrainingOrder, evaluation_batches
from symbreak.datamodules.randomness import generator, stratified_split


def ranks(size: int, global_batch_size: int, world_size: int, epoch: int = 0) -> torch.Tensor:
    indices = torch.arange(100, 100 + size)
    orders = [
        TrainingOrder(indices, global_batch_size // world_size, seed=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for order in orders:
        order.set_epoch(epoch)
    return torch.stack([order.batches() for order in orders], dim=1)


def test_a_draw_depends_on_seed_epoch_purpose_and_index_alone():
    draw = generator(1, 2, "crop").integers(0, 9, (50, 2))
    assert (generator(1, 2, "crop").integers(0, 9, (20, 2)) == draw[:20]).all()
    for other in (generator(2, 2, "crop"), generator(1, 1, "crop"), generator(1, 2, "flip")):
        assert (other.integers(0, 9, (50, 2)) != draw).any()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world_size):
    batches = ranks(50, 12, world_size).flatten(1)
    assert torch.equal(batches, ranks(50, 12, 1).flatten(1))
    assert len(batches) == 4
    assert len(batches.unique()) == 48


def test_every_epoch_has_a_permutation_of_its_own():
    first, second = ranks(48, 12, 1, epoch=0).flatten(), ranks(48, 12, 1, epoch=1).flatten()
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)
    assert torch.equal(first, ranks(48, 12, 1, epoch=0).flatten())


def test_order_without_shuffling():
    order = TrainingOrder(torch.arange(10), 4, seed=0, shuffle=False)
    assert order.batches().tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_too_few_samples_for_a_batch():
    with pytest.raises(ValueError, match=r"7 training samples do not fill one batch: batch_size=4 on 2 rank"):
        TrainingOrder(torch.arange(7), 4, seed=0, world_size=2)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "batch_size"), [(359, 128), (9, 2), (7, 1), (4, 100)])
def test_evaluation_shards_cover_everything_once_in_equally_many_batches(size, batch_size, world_size):
    shards = [evaluation_batches(torch.arange(size), batch_size, rank, world_size) for rank in range(world_size)]
    assert torch.cat([rows for shard in shards for rows in shard]).tolist() == list(range(size))
    assert len({len(shard) for shard in shards}) == 1
    sizes = [len(rows) for shard in shards for rows in shard]
    assert min(sizes) > 0
    assert max(sizes) <= max(batch_size, 2)


def test_fewer_evaluation_samples_than_ranks():
    with pytest.raises(ValueError, match="2 evaluation samples cannot be shared by 3 ranks"):
        evaluation_batches(torch.arange(2), 8, 0, 3)


def test_a_stratified_split_is_disjoint_complete_and_stable():
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    rest, held_out = stratified_split(labels, 0.2, seed=5)
    assert sorted([*rest, *held_out]) == list(range(60))
    assert np.bincount(labels[held_out]).tolist() == [2, 4, 6]
    assert (stratified_split(labels, 0.2, seed=5)[1] == held_out).all()
    assert (stratified_split(labels, 0.2, seed=6)[1] != held_out).any()
    assert len(stratified_split(labels, 0.0, seed=5)[1]) == 0
