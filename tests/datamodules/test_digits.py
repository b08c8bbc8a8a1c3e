import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.demos.boring_classes import BoringModel

from symbreak.datamodules import DigitsDataModule
from symbreak.datamodules.digits import read_digits
from symbreak.datamodules.sources import ResidentImages


def resident(data, split):
    source = data.make_source(split, torch.device("cpu"))
    assert isinstance(source, ResidentImages)
    return source


def test_what_is_known_before_set_up():
    data = DigitsDataModule()
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 8)


def test_images_and_labels_belong_together():
    images, labels = read_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min(), images.max()) == (0, 16)
    assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_train_and_test_are_disjoint_and_complete_whatever_the_seeds():
    train, test = (resident(DigitsDataModule(seed=4, split_seed=4), split) for split in ("train", "test"))
    assert torch.equal(test.images, resident(DigitsDataModule(), "test").images)
    rows = torch.cat([train.images, test.images]).flatten(1)
    assert torch.equal(rows.unique(dim=0), read_digits()[0].flatten(1).unique(dim=0))
    assert len(rows) == 1797
    assert len(test.labels) == 359


def test_evaluation_batches_are_normalised_and_complete():
    data = DigitsDataModule(batch_size=64)
    data.setup("test")
    images, labels = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    assert torch.equal(labels, resident(data, "test").labels)
    assert torch.equal(images, data._appearance.normalize(resident(data, "test").images))


def test_the_command_line_can_build_it():
    arguments = ["--data=symbreak.datamodules.DigitsDataModule", "--data.batch_size=32", "--data.cutout=2"]
    cli = LightningCLI(
        BoringModel,
        LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=False,
        run=False,
        args=arguments,
    )
    data = cli.datamodule
    assert isinstance(data, DigitsDataModule)
    assert (data.batch_size, data.cutout, data.crop_padding, data.val_fraction) == (32, 2, 0, 0.1)


def test_a_checkpoint_holds_the_arguments_of_the_data(tmp_path):
    from pytorch_lightning import Trainer

    from symbreak.lightning_modules import ConstNet

    data = DigitsDataModule(batch_size=64, cutout=2, seed=5)
    trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, limit_val_batches=0, default_root_dir=tmp_path)
    trainer.fit(ConstNet(7, 1, in_channels=1), data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = DigitsDataModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert (again.batch_size, again.cutout, again.seed, again.crop_padding) == (64, 2, 5, data.crop_padding)
