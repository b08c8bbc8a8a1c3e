import math
from typing import Any

import pytest
import torch

from symbreak.lightning_modules import initialization as init

SHAPES = [(4, 3), (4, 4), (3, 5, 1, 1), (5, 3, 3, 3), (3, 3, 3, 3), (2, 7, 5, 5), (6, 2, 7, 7), (3, 4, 3, 5), (5, 2, 3)]


def entries(shape):
    """Every index with its output, input, and whether it lies at the kernel's centre."""
    for index in torch.cartesian_prod(*(torch.arange(size) for size in shape)).tolist():
        centre = all(2 * i + 1 == size for i, size in zip(index[2:], shape[2:], strict=True))
        yield tuple(index), index[0], index[1], centre


def hadamard_entry(row, column):
    """Sylvester's matrix: the sign is the parity of the bits that row and column share."""
    return -1.0 if (row & column).bit_count() % 2 else 1.0


@pytest.mark.parametrize("shape", SHAPES)
def test_averaging(shape):
    weight = init.averaging_(torch.randn(shape), scale=2.0)
    for index, _, _, centre in entries(shape):
        assert weight[index].item() == pytest.approx(2.0 / shape[1] if centre else 0.0, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_cyclic_identity(shape):
    weight = init.cyclic_identity_(torch.randn(shape), scale=-3.0)
    for index, output, input_, centre in entries(shape):
        assert weight[index].item() == (-3.0 if centre and output % shape[1] == input_ else 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_partial_identity(shape):
    weight = init.partial_identity_(torch.randn(shape))
    for index, output, input_, centre in entries(shape):
        assert weight[index].item() == float(centre and output == input_)


@pytest.mark.parametrize("shape", SHAPES)
def test_identity(shape):
    if shape[0] != shape[1]:
        with pytest.raises(ValueError, match=f"got {shape[0]} and {shape[1]}: use cyclic_identity or partial_identity"):
            init.identity_(torch.zeros(shape))
        return
    weight = init.identity_(torch.randn(shape))
    for index, output, input_, centre in entries(shape):
        assert weight[index].item() == float(centre and output == input_)


@pytest.mark.parametrize("scale", ["code", "paper"])
@pytest.mark.parametrize("shape", [*SHAPES, (16, 5, 1, 1), (17, 16), (2, 1), (8, 7, 3, 3)])
def test_hadamard(shape, scale):
    weight = init.hadamard_(torch.randn(shape), scale)
    outputs, inputs = shape[:2]
    order = math.ceil(math.log2(outputs))
    factor = 2 ** (-(order if scale == "code" else order - 1) / 2)
    for index, output, input_, centre in entries(shape):
        value = hadamard_entry(output, input_) * factor if outputs > inputs else float(output == input_)
        assert weight[index].item() == pytest.approx(value * centre, rel=1e-6)


def test_hadamard_keeps_norms_where_it_is_not_truncated():
    unknown: Any = "text"
    weight = init.hadamard_(torch.empty(16, 5, dtype=torch.float64))
    torch.testing.assert_close(weight.T @ weight, torch.eye(5, dtype=torch.float64))
    with pytest.raises(ValueError, match="expected one of 'code', 'paper'"):
        init.hadamard_(torch.empty(2, 2), unknown)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6, 1, 1), (6, 4, 3, 3), (3, 2, 5, 5)])
def test_orthogonal(shape):
    rows = init.orthogonal_(torch.empty(shape, dtype=torch.float64), gain=2.0).flatten(1)
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    torch.testing.assert_close(gram, 4 * torch.eye(len(gram), dtype=torch.float64))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6, 3, 3), (6, 4, 1, 1), (6, 4, 7, 7)])
def test_delta_orthogonal(shape):
    weight = init.delta_orthogonal_(torch.empty(shape, dtype=torch.float64), gain=2.0)
    centre = init.centre_tap(weight)
    gram = centre.T @ centre if shape[0] >= shape[1] else centre @ centre.T
    torch.testing.assert_close(gram, 4 * torch.eye(len(gram), dtype=torch.float64))
    assert all(weight[index] == 0 for index, _, _, at_centre in entries(shape) if not at_centre)


@pytest.mark.parametrize("shape", SHAPES)
def test_centre_tap_is_a_view(shape):
    weight = torch.zeros(shape)
    init.centre_tap(weight).fill_(1)
    assert weight.sum() == shape[0] * shape[1]
    assert weight.flip(tuple(range(2, len(shape)))).equal(weight)


@pytest.mark.parametrize(("fan", "channels"), [("fan_out", 200), ("fan_in", 50)])
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_he_spread(gain, fan, channels):
    weight = init.he_(torch.empty(200, 50, 3, 3), gain, fan)
    assert weight.var().item() == pytest.approx(gain / (9 * channels), rel=0.03)
    assert weight.mean().item() == pytest.approx(0, abs=4 * init.he_std(weight, gain, fan) / math.sqrt(weight.numel()))


def test_xavier_spread():
    weight = init.xavier_(torch.empty(200, 50, 3, 3))
    assert weight.var().item() == pytest.approx(2 / (9 * 250), rel=0.03)


def test_additive_noise_adds_he_draws():
    weight = init.averaging_(torch.empty(100, 40, 3, 3))
    noisy = init.add_noise_(weight.clone(), 0.25)
    torch.manual_seed(1)
    again = init.add_noise_(weight.clone(), 0.25)
    torch.manual_seed(1)
    torch.testing.assert_close(again, weight + 0.25 * init.he_std(weight) * torch.randn_like(weight))
    assert (noisy - weight).std().item() == pytest.approx(0.25 * math.sqrt(2 / 900), rel=0.03)


def test_interpolated_noise_follows_its_formula():
    weight = init.averaging_(torch.empty(100, 40, 3, 3))
    noisy = init.add_noise_(weight.clone(), 0.25, "interpolate", slope=0.01)
    spread = math.sqrt(math.sqrt(2) * 1.01 * 0.25 / (40 * 9))
    assert (noisy - 0.75 * weight).std().item() == pytest.approx(spread, rel=0.03)
    assert init.add_noise_(weight.clone(), 1.0, "interpolate").mean().item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("mode", ["additive", "interpolate"])
def test_noise_of_scale_zero_changes_nothing(mode):
    weight, state = torch.randn(3, 4), torch.get_rng_state()
    assert init.add_noise_(weight.clone(), 0.0, mode).equal(weight)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize(
    ("scale", "mode", "message"),
    [
        (-0.1, "additive", "between 0 and"),
        (math.nan, "additive", "between 0 and"),
        (1.1, "interpolate", "between 0 and 1"),
        (0.1, "mixed", "'additive', 'interpolate'"),
    ],
)
def test_noise_out_of_range(scale, mode, message):
    with pytest.raises(ValueError, match=message):
        init.add_noise_(torch.zeros(2, 2), scale, mode)


@pytest.mark.parametrize("shape", [(3, 3), (7, 3), (3, 7), (2, 3, 3, 3), (20, 1, 3)])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_padded_identity_entry_by_entry(shape, scale):
    weight = init.padded_identity_(torch.empty(shape, dtype=torch.float64), scale).flatten(1)
    rows, columns = weight.shape
    for i in range(rows):
        for j in range(columns):
            assert weight[i, j] == (scale if (i - j) % min(rows, columns) == 0 else 0)


def test_noise_of_the_padded_identity_makes_its_repeated_rows_differ():
    torch.manual_seed(0)
    weight = init.padded_identity_(torch.empty(64, 16, dtype=torch.float64), noise=1e-6)
    assert len({tuple(row) for row in weight.tolist()}) == 64
    noise = weight - init.padded_identity_(torch.empty(64, 16, dtype=torch.float64))
    assert noise.std().item() == pytest.approx(1e-6, rel=0.1)


@pytest.mark.parametrize("shape", [(5, 5), (6, 4), (4, 9), (3, 2, 3, 3)])
def test_sinusoidal_entry_by_entry(shape):
    weight = init.sinusoidal_(torch.empty(shape, dtype=torch.float64)).flatten(1)
    m, n = weight.shape
    waves = [[math.sin(2 * math.pi * i * j / n + 2 * math.pi * i / m) for j in range(n)] for i in range(1, m + 1)]
    entries = [value for row in waves for value in row]
    mean = sum(entries) / len(entries)
    variance = sum((value - mean) ** 2 for value in entries) / (len(entries) - 1)
    amplitude = math.sqrt(2 / (m + n) / variance)
    torch.testing.assert_close(weight, amplitude * torch.tensor(waves, dtype=torch.float64))
    assert weight.var().item() == pytest.approx(2 / (m + n))


def test_a_single_entry_has_no_wave():
    with pytest.raises(ValueError, match="1 outputs and 1 inputs"):
        init.sinusoidal_(torch.empty(1, 1))
