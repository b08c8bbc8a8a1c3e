import pickle
import struct

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from symbreak.datamodules import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule, SVHNDataModule

SETS = [CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule, SVHNDataModule]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("data_class", SETS)
def test_a_missing_set_names_the_folder_and_the_remedy(tmp_path, data_class):
    data = data_class(root=str(tmp_path))
    data.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"--data.init_args.download=true") as error:
        data.setup("fit")
    assert str(tmp_path / data.folder) in str(error.value)
    assert data.title in str(error.value)


def test_a_failed_download_names_the_folder(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fail)
    with pytest.raises(FileNotFoundError, match=rf"CIFAR-10 into {tmp_path}.* failed: no route to host"):
        CIFAR10DataModule(root=str(tmp_path), download=True).prepare_data()


@pytest.mark.parametrize("data_class", SETS)
def test_what_is_known_before_set_up(data_class):
    data = data_class()
    grey = data_class is FashionMNISTDataModule
    assert (data.in_channels, data.image_size) == ((1, 28) if grey else (3, 32))
    assert data.num_classes == (100 if data_class is CIFAR100DataModule else 10)
    assert (data.crop_padding, data.flip) == (4, data_class is not SVHNDataModule)


def check(data, images, labels):
    """Compare the training source, and one evaluation batch, with channels-last images."""
    data.setup("fit")
    assert torch.equal(data._train.sample(torch.arange(len(labels))), torch.from_numpy(images).permute(0, 3, 1, 2))
    assert data._train.labels.tolist() == labels.tolist()
    shown, _ = next(iter(data.train_dataloader()))
    assert shown.shape == (data.batch_size, data.in_channels, data.image_size, data.image_size)
    assert len(data._val_indices) == 4


def test_cifar(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = RNG.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(60) % 2
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for i, name in enumerate(names):
        rows = slice(10 * i, 10 * i + 10)
        planes = images[rows].transpose(0, 3, 1, 2).reshape(10, -1)
        (folder / name).write_bytes(pickle.dumps({"data": planes, "labels": labels[rows].tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, checksum: True)
    check(CIFAR10DataModule(root=str(tmp_path), batch_size=20), images[:50], labels[:50])


def test_fashion_mnist(tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = RNG.integers(0, 256, (40, 28, 28, 1), dtype=np.uint8)
    labels = (np.arange(40) % 2).astype(np.uint8)
    for prefix in ("train", "t10k"):
        for kind, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
            header = struct.pack(f">{array.squeeze().ndim + 1}i", magic, *array.squeeze().shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    check(FashionMNISTDataModule(root=str(tmp_path), batch_size=20), images, labels)


def test_svhn(tmp_path, monkeypatch):
    images = RNG.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    for split in ("train", "test"):
        # The files call the digit 0 class 10.
        content = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", content)
    monkeypatch.setattr(torchvision.datasets.svhn, "check_integrity", lambda path, checksum: True)
    check(SVHNDataModule(root=str(tmp_path), batch_size=20), images, labels)
