from itertools import islice

import pytest
import torch

from symbreak.datamodules import TextDataModule
from symbreak.datamodules.text import read_text
from symbreak.sweeps.run.parser import resolve


def batches(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(islice(loader, 3))


def test_the_language_reference_is_at_hand():
    data = TextDataModule()
    assert len(read_text(None)) > 300_000
    assert data.num_classes == len(data.vocabulary) > 60
    tokens, targets = next(iter(data.train_dataloader()))
    assert tokens.shape == targets.shape == (64, 64)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    text = "".join(data.vocabulary[token] for token in tokens[0])
    assert text in read_text(None)


def test_order_is_a_function_of_seed_and_epoch():
    first, same = batches(TextDataModule(seed=1)), batches(TextDataModule(seed=1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0][0], batches(TextDataModule(seed=2))[0][0])
    assert not torch.equal(first[0][0], batches(TextDataModule(seed=1), epoch=1)[0][0])


def test_the_seed_of_the_order_can_be_set_alone():
    alone, other = batches(TextDataModule(seed=1, order_seed=2)), batches(TextDataModule(seed=2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(alone, other, strict=True))
    config = resolve(["fit", "--config", "sweeps/configs/text.yaml", "--seeds.order=5"])
    assert config["data.init_args.order_seed"] == 5


def test_splits_are_disjoint_parts_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 400)
    (tmp_path / "b.txt").write_text("xyz" * 400)
    data = TextDataModule(path=str(tmp_path), tokens="bytes", context=8, batch_size=4)
    assert data.num_classes == 256
    whole = list(("abc" * 400 + "\n" + "xyz" * 400).encode())
    test = torch.cat([tokens for tokens, _ in data.test_dataloader()]).flatten().tolist()
    assert test == whole[2281 : 2281 + len(test)]
    assert 104 <= len(test) <= 120
    trained = set(torch.cat([tokens for tokens, _ in data.train_dataloader()]).flatten().tolist())
    assert trained <= set(whole)


def test_going_on_in_the_middle_of_an_epoch():
    data = TextDataModule()
    whole = list(islice(data.train_dataloader(), 4))
    loader = data.train_dataloader()
    list(islice(loader, 2))
    resumed = data.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert torch.equal(next(iter(resumed))[0], whole[2][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "missing.txt"}, "missing.txt"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"order_seed": -1}, "order_seed must be at least 0"),
        ({"context": 10**6}, "too few"),
        ({"tokens": "words"}, "expected 'characters' or 'bytes'"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextDataModule(**arguments)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="UTF-8"):
        TextDataModule(path=str(tmp_path / "a.bin"))
