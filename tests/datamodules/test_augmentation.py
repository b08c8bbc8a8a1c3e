import pytest
import torch
from torch.nn.functional import one_hot, pad

from symbreak.datamodules.augmentation import Appearance, Augmentation, crop, cutout

EVERYTHING = Augmentation(crop_padding=2, flip=True, cutout=3, mixup=0.5)
PARTNERS = torch.tensor([3, 5, 8])


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (6, 3, 8, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_crop_equals_reflection_padding_and_a_window_per_sample(pixels):
    shift = torch.tensor([[-4, -4], [4, 4], [0, 0], [-1, 3], [2, -2], [0, 4]])
    flip = torch.tensor([False, True, True, False, True, False])
    padded = pad(pixels.float(), (4, 4, 4, 4), mode="reflect")
    for image, padded_image, (row, column), mirror in zip(crop(pixels, shift, flip), padded, shift, flip, strict=True):
        window = padded_image[:, 4 + row : 12 + row, 4 + column : 14 + column]
        assert torch.equal(image.float(), window.flip(2) if mirror else window)


def test_crop_without_shift_or_flip_changes_nothing(pixels):
    assert torch.equal(crop(pixels, torch.zeros(6, 2, dtype=torch.long), torch.zeros(6, dtype=torch.bool)), pixels)


def test_cutout_clears_a_square_clipped_at_the_border():
    images = torch.ones(3, 2, 8, 10)
    corner = torch.tensor([[-2, -1], [3, 4], [7, 9]])
    expected = images.clone()
    for image, (row, column) in zip(expected, corner.tolist(), strict=True):
        image[:, max(row, 0) : row + 3, max(column, 0) : column + 3] = 0
    assert torch.equal(cutout(images, corner, 3), expected)
    assert expected.sum() < images.sum()


def test_normalize_and_look_compose_the_single_steps(pixels):
    appearance = Appearance(torch.full((3, 1, 1), 100.0), torch.full((3, 1, 1), 50.0), num_classes=4, cutout=3)
    draws = EVERYTHING.draw(6, 8, torch.arange(6), seed=0, epoch=0)
    moved = crop(pixels, draws["shift"], draws["flip"])
    expected = cutout((moved.float() - 100) / 50, draws["hole"], 3)
    assert torch.equal(appearance.look(pixels, draws), expected)
    assert torch.equal(appearance.look(pixels, {}), (pixels.float() - 100) / 50)


def test_mix_weighs_images_and_labels_alike():
    appearance = Appearance(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), num_classes=3)
    images, others = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2)
    labels, other_labels = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 0, 2])
    weight = torch.tensor([0.0, 0.25, 0.7, 1.0])
    mixed, soft = appearance.mix(images, others, labels, other_labels, weight)
    for i, w in enumerate(weight):
        torch.testing.assert_close(mixed[i], w * images[i] + (1 - w) * others[i])
        torch.testing.assert_close(soft[i], w * one_hot(labels, 3)[i] + (1 - w) * one_hot(other_labels, 3)[i])
    assert soft.dtype == torch.float32


def test_draws_are_a_function_of_seed_epoch_and_index():
    draws = EVERYTHING.draw(100, 8, PARTNERS, seed=1, epoch=2)
    fewer = EVERYTHING.draw(40, 8, PARTNERS, seed=1, epoch=2)
    for seed, epoch in ((1, 3), (2, 2)):
        others = EVERYTHING.draw(100, 8, PARTNERS, seed=seed, epoch=epoch)
        for name, draw in draws.items():
            assert torch.equal(draw[:40], fewer[name])
            assert not torch.equal(draw, others[name])


def test_draws_stay_in_bounds_and_fill_them():
    draws = EVERYTHING.draw(2000, 8, PARTNERS, seed=0, epoch=0)
    assert draws["shift"].unique().tolist() == [-2, -1, 0, 1, 2]
    assert draws["hole"].unique().tolist() == list(range(-1, 7))
    assert draws["partner"].unique().tolist() == PARTNERS.tolist()
    assert 0.45 < draws["flip"].float().mean() < 0.55
    assert 0 <= draws["weight"].min() < 0.01 < 0.99 < draws["weight"].max() <= 1


def test_one_augmentation_does_not_change_the_draws_of_another():
    everything = EVERYTHING.draw(50, 8, PARTNERS, seed=0, epoch=0)
    only_crop = Augmentation(crop_padding=2).draw(50, 8, PARTNERS, seed=0, epoch=0)
    assert set(only_crop) == {"shift", "flip"}
    assert torch.equal(only_crop["shift"], everything["shift"])
    assert not only_crop["flip"].any()
    assert Augmentation().draw(50, 8, PARTNERS, seed=0, epoch=0) == {}
