import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from symbreak.datamodules import ImageFolderDataModule
from symbreak.datamodules.image_files import StreamedImages
from symbreak.datamodules.sources import ResidentImages

EVERYTHING = {"crop_padding": 2, "cutout": 3, "mixup": 0.5}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder of 3 x 8 training and 3 x 2 test images, lossless, wider than high."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        for name in ("ape", "bat", "cat"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def root(originals, tmp_path):
    return shutil.copytree(originals, tmp_path / "images")


def module(root, **arguments):
    data = ImageFolderDataModule(root=str(root), **{"image_size": 8, "batch_size": 5, "num_workers": 0, **arguments})
    data.setup("fit")
    return data


def resident(data, split="train"):
    source = data.make_source(split, torch.device("cpu"))
    assert isinstance(source, ResidentImages)
    return source


def streamed_files(data):
    assert isinstance(data._train, StreamedImages)
    return data._train.files


def epochs(loader):
    """Two epochs of batches, the first of them left in the middle."""
    seen = []
    for epoch, count in ((0, 2), (1, 4)):
        loader.sampler.set_epoch(epoch)
        seen += [batch for batch, _ in zip(loader, range(count), strict=False)]
    return seen


def assert_equal_batches(left, right):
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_pixels_labels_and_splits(root):
    data = module(root)
    assert (data.num_classes, data.in_channels, data.image_size) == (3, 3, 8)
    with Image.open(root / "train" / "bat" / "3.png") as file:
        expected = torch.from_numpy(np.array(file)).permute(2, 0, 1)[:, :, 2:10]
    assert torch.equal(resident(data).images[8 + 3], expected)
    assert data._train.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert data._test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(data._val_indices) == 3


def test_grey_images_of_another_size(root):
    images = module(root, in_channels=1, image_size=6).test_dataloader()
    assert next(iter(images))[0].shape == (3, 1, 6, 6)


def test_streamed_equals_resident(root):
    resident_data, streamed = module(root, **EVERYTHING), module(root, resident="never", **EVERYTHING)
    assert streamed_files(streamed).labels.tolist() == resident(resident_data).labels.tolist()
    assert_equal_batches(epochs(streamed.train_dataloader()), epochs(resident_data.train_dataloader()))
    assert_equal_batches(list(streamed.val_dataloader()), list(resident_data.val_dataloader()))
    assert_equal_batches(list(streamed.test_dataloader()), list(resident_data.test_dataloader()))


def test_worker_processes_change_no_bit(root):
    options = {"resident": "never", "crop": "resized", "mixup": 0.5}
    alone = epochs(module(root, **options).train_dataloader())
    assert_equal_batches(epochs(module(root, num_workers=2, **options).train_dataloader()), alone)
    assert not torch.equal(alone[0][0], epochs(module(root, seed=1, **options).train_dataloader())[0][0])


def test_a_random_crop_is_a_function_of_seed_epoch_and_index(root):
    files = streamed_files(module(root, crop="resized"))
    before = torch.random.get_rng_state()
    image = files[0, 4][0]
    assert torch.equal(files[0, 4][0], image)
    assert not torch.equal(files[1, 4][0], image)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(files[0, 4][0], streamed_files(module(root, crop="resized", seed=1))[0, 4][0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streaming_leaves_the_global_generator_alone(root, num_workers):
    data = module(root, resident="never", num_workers=num_workers)
    before = torch.random.get_rng_state()
    epochs(data.train_dataloader())
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_streamed_loader_resumes(root):
    loader = module(root, resident="never", **EVERYTHING).train_dataloader()
    iterator = iter(loader)
    first = next(iterator)
    resumed = module(root, resident="never", num_workers=1, **EVERYTHING).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert_equal_batches([first, *resumed], list(loader))


def test_the_second_time_pixels_come_from_the_cache(root, monkeypatch):
    first = resident(module(root))
    monkeypatch.setattr("symbreak.datamodules.image_files.decode", None)
    assert torch.equal(resident(module(root)).images, first.images)
    monkeypatch.undo()
    (root / "train" / "ape" / "0.png").unlink()
    assert len(resident(module(root)).images) == 23


def test_a_truncated_cache_is_made_again(root):
    whole = resident(module(root)).images
    path = next((root / ".symbreak").glob("*.pt"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert torch.equal(resident(module(root)).images, whole)
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_done_without(root):
    (root / ".symbreak").touch()
    assert len(resident(module(root)).images) == 24


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_used_and_tested_on_where_there_is_no_test_folder(root, name):
    (root / "test").rename(root / name)
    data = module(root)
    assert len(data._train_indices) == 24
    assert torch.equal(resident(data, "val").images, resident(data, "test").images)
    assert len(data._val_indices) == 6


def test_missing_folders_are_named(root):
    with pytest.raises(FileNotFoundError, match=rf"no folder train in {root}/nowhere.*train/<class>/<image>"):
        ImageFolderDataModule(root=str(root / "nowhere"))
    shutil.rmtree(root / "test")
    with pytest.raises(FileNotFoundError, match=f"no folder test in {root}"):
        module(root)


def test_empty_and_unknown_classes_are_named(root):
    (root / "test" / "dog").mkdir()
    with pytest.raises(ValueError, match="test has classes that train has not: dog"):
        module(root)
    for file in (root / "train").rglob("*.png"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no images in .*train: looked for .jpg"):
        module(root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 2}, "in_channels must be one of 1, 3, got 2"),
        ({"resident": "maybe"}, "resident must be one of auto, always, never, got 'maybe'"),
        ({"crop": "centre"}, "crop must be one of pad, resized, got 'centre'"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"crop": "resized", "resident": "always"}, 'crop="resized" needs the whole files'),
        ({"crop_padding": 32}, "crop_padding must be from 0 to 31"),
    ],
)
def test_arguments_that_are_not_allowed(root, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(root=str(root), **arguments)
