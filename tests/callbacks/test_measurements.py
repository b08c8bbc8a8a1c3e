import torch

from symbreak.callbacks.measurements import DeviceBuffer


def test_rows_come_out_as_they_went_in_whatever_their_dtype():
    buffer = DeviceBuffer()
    buffer.add(3, ["a", "b"], [torch.tensor(2**53 - 1), torch.tensor(0.1, dtype=torch.float64)])
    buffer.add(4, [], [])
    buffer.add(5, ["a"], [torch.tensor(float("nan"), dtype=torch.bfloat16)])
    (first, second) = buffer.drain()
    assert first == (3, {"a": 2**53 - 1, "b": 0.1})
    assert second[0] == 5
    assert second[1]["a"] != second[1]["a"]
    assert buffer.drain() == []


def test_one_drain_is_one_transfer(monkeypatch):
    buffer, transfers = DeviceBuffer(), []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: transfers.append(1) or original(self))
    for step in range(50):
        buffer.add(step, ["a", "b"], [torch.tensor(1.0), torch.tensor(2.0)])
    assert transfers == []
    assert len(buffer.drain()) == 50
    assert transfers == [1]
