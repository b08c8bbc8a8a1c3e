import torch

from symbreak.callbacks.measurements import DeviceBuffer


def named(*values):
    return {f"m{i}": value for i, value in enumerate(values)}


def total(*values):
    return {"all": sum(values)}


def test_rows_come_out_as_they_went_in_whatever_their_dtype():
    buffer = DeviceBuffer()
    stacked = [torch.tensor([2**53 - 1, 7]), torch.tensor([0.1, 0.2], dtype=torch.float64)]
    buffer.add(
        3, [(["a", "b"], stacked, named), (["a"], [torch.tensor([4.0, 5.0])], lambda *values: {"all": sum(values)})]
    )
    buffer.add(4, [])
    buffer.add(5, [(["a"], [torch.tensor(float("nan"), dtype=torch.bfloat16)], named)])
    (first, second) = buffer.drain()
    assert first == (3, {"a": {"m0": 2**53 - 1, "m1": 0.1, "all": 9.0}, "b": {"m0": 7, "m1": 0.2}})
    assert second[0] == 5
    assert second[1]["a"]["m0"] != second[1]["a"]["m0"]
    assert buffer.drain() == []


def test_one_drain_is_one_transfer(monkeypatch):
    buffer, transfers = DeviceBuffer(), []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: transfers.append(1) or original(self))
    for step in range(50):
        buffer.add(step, [(["a"], [torch.tensor(1.0), torch.tensor(2.0)], named)])
    assert transfers == []
    assert len(buffer.drain()) == 50
    assert transfers == [1]
