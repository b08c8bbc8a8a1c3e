import pytest
import torch
from lightning_fabric.utilities.data import _set_sampler_epoch
from pytorch_lightning import LightningModule, Trainer
from torch.nn import Flatten, Linear, Sequential
from torch.nn.functional import cross_entropy

from symbreak.datamodules import DigitsDataModule
from symbreak.datamodules.loaders import TrainingLoader
from symbreak.datamodules.order import TrainingOrder
from symbreak.datamodules.sources import ResidentImages, channel_statistics

EVERYTHING = {"crop_padding": 2, "flip": True, "cutout": 3, "mixup": 0.5}


class Recorder(LightningModule):
    """Keeps what it is shown: the sum of every training batch, and how many samples were evaluated."""

    def __init__(self):
        super().__init__()
        self.network = Sequential(Flatten(), Linear(64, 10))
        self.seen, self.evaluated = [], 0

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch[0].double().sum().item()))
        return cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.evaluated += len(batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def module(**arguments):
    data = DigitsDataModule(**{"batch_size": 100, **arguments})
    data.setup("fit")
    return data


def trainer(**arguments):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, **quiet, **arguments)


def batches(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_equal_batches(left, right):
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_batches_repeat_for_the_same_epoch_and_differ_for_another():
    first = batches(module(**EVERYTHING).train_dataloader(), epoch=3)
    assert_equal_batches(first, batches(module(**EVERYTHING).train_dataloader(), epoch=3))
    assert not torch.equal(first[0][0], batches(module(**EVERYTHING).train_dataloader(), epoch=4)[0][0])
    assert not torch.equal(first[0][0], batches(module(**EVERYTHING, seed=1).train_dataloader(), epoch=3)[0][0])


def test_batches_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    batches(module(**EVERYTHING).train_dataloader())
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_a_sample_looks_the_same_whatever_the_batch_size_and_the_number_of_ranks(world_size):
    data = module(**EVERYTHING)
    reference = data.train_dataloader()
    size = 24 // world_size
    images, labels = [], []
    for rank in range(world_size):
        order = TrainingOrder(data._train_indices, size, reference.sampler.seed, rank, world_size)
        loader = TrainingLoader(
            data._train, order, reference.augmentation, reference.appearance, 8, reference.augmentation_seed
        )
        ours = batches(loader, epoch=1)
        images.append(torch.stack([batch[0] for batch in ours]))
        labels.append(torch.stack([batch[1] for batch in ours]))
    together = torch.cat(images, 1).flatten(0, 1), torch.cat(labels, 1).flatten(0, 1)
    expected = [torch.cat(parts)[: len(together[0])] for parts in zip(*batches(reference, epoch=1), strict=True)]
    assert torch.equal(together[0][: len(expected[0])], expected[0])
    assert torch.equal(together[1][: len(expected[1])], expected[1])


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_batches_do_not_depend_on_how_many_are_prepared_at_once(monkeypatch, chunk):
    expected = batches(module(**EVERYTHING).train_dataloader())
    monkeypatch.setattr(ResidentImages, "batches_per_chunk", lambda self, batch_size: chunk)
    assert_equal_batches(expected, batches(module(**EVERYTHING).train_dataloader()))


def test_mixup_gives_probabilities_and_no_mixup_gives_classes():
    images, soft = next(iter(module(mixup=0.5).train_dataloader()))
    assert soft.shape == (100, 10)
    torch.testing.assert_close(soft.sum(1), torch.ones(100))
    assert ((soft > 0).sum(1) == 2).sum() > 50
    plain, labels = next(iter(module().train_dataloader()))
    assert labels.dtype == torch.int64
    assert images.shape == plain.shape == (100, 1, 8, 8)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("position", [0, 1, 5, 11, 12])
def test_a_loader_resumes_after_the_batches_handed_out(monkeypatch, position, chunk):
    monkeypatch.setattr(ResidentImages, "batches_per_chunk", lambda self, batch_size: chunk)
    loader = module(**EVERYTHING).train_dataloader()
    loader.sampler.set_epoch(2)
    iterator = iter(loader)
    for _ in range(position):
        next(iterator)
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == ((2, position) if position else (0, 0))

    resumed = module(**EVERYTHING).train_dataloader()
    resumed.load_state_dict(state)
    rest = batches(resumed, epoch=2)
    straight = batches(loader, epoch=2)
    assert len(rest) == len(straight) - position
    for one, other in zip(rest, straight[position:], strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert_equal_batches(batches(resumed, epoch=3), batches(loader, epoch=3))


def test_a_position_counts_only_in_its_own_epoch():
    loader = module().train_dataloader()
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batches": 4})
    assert len(batches(loader, epoch=2)) == len(loader)


def test_other_data_is_refused_in_the_middle_of_an_epoch():
    loader = module().train_dataloader()
    other = module(batch_size=50, seed=3).train_dataloader()
    other.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match="global_batch_size was 100 and is 50, seed was 0 and is 3"):
        other.load_state_dict({**loader.state_dict(), "batches": 2})


def test_splits_are_disjoint_and_stable():
    data = module(val_fraction=0.25)
    assert len(set(data._train_indices.tolist()) & set(data._val_indices.tolist())) == 0
    assert len(data._train_indices) + len(data._val_indices) == len(data._train.labels) == 1438
    assert torch.equal(data._val_indices, module(val_fraction=0.25, seed=9)._val_indices)
    assert not torch.equal(data._val_indices, module(val_fraction=0.25, split_seed=1)._val_indices)
    assert module(val_fraction=0).val_dataloader() == []


def test_training_images_have_mean_0_and_deviation_1():
    data = module(val_fraction=0)
    images = data._appearance.normalize(data._train.sample(data._train_indices))
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(images.std(correction=0), torch.tensor(1.0))


def test_channel_statistics_per_channel_with_a_constant_one():
    images = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    images[:, 1] = 7
    mean, std = channel_statistics(images)
    torch.testing.assert_close(mean.flatten(), images.float().mean((0, 2, 3)))
    torch.testing.assert_close(std.flatten()[[0, 2]], images.float().std((0, 2, 3), correction=0)[[0, 2]])
    assert std.flatten()[1] == 1


def test_lightning_sets_the_epoch_and_shows_every_sample_once():
    model, data = Recorder(), DigitsDataModule(batch_size=100, crop_padding=1)
    trainer(max_epochs=2, num_sanity_val_steps=0).fit(model, datamodule=data)
    loader = data.train_dataloader()
    expected = [(epoch, x.double().sum().item()) for epoch in (0, 1) for x, _ in batches(loader, epoch)]
    assert model.seen == expected
    assert model.evaluated == 2 * len(data._val_indices)


def test_overfitting_a_few_batches_keeps_them():
    model, data = Recorder(), DigitsDataModule(batch_size=100)
    trainer(max_epochs=2, overfit_batches=2).fit(model, datamodule=data)
    sums = [total for _, total in model.seen]
    assert sums[:2] == sums[2:]


def test_lightning_finds_the_sampler():
    loader = module().train_dataloader()
    _set_sampler_epoch(loader, 7)
    assert loader.sampler.epoch == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"split_seed": -1}, "split_seed must be at least 0"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1"),
        ({"crop_padding": 8}, "crop_padding must be from 0 to 7"),
        ({"cutout": 17}, "cutout must be from 0 to 16"),
        ({"mixup": -0.1}, "mixup must be at least 0"),
    ],
)
def test_arguments_out_of_bounds(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**arguments)
