import math

import numpy as np
import pytest
import torch

from symbreak.sweeps.compare.weights import growth_of, read_state, relative_distances, separation_step
from symbreak.sweeps.errors import UsageError


def test_relative_distances_against_numpy():
    torch.manual_seed(0)
    states = [{"a": torch.randn(5, 3), "b": torch.randn(4), "n": torch.tensor(3)} for _ in range(3)]
    found = relative_distances(states, [(0, 1), (1, 2)], ["a", "b"])
    for (i, j), distance in found.items():
        x, y = (np.concatenate([states[k][name].double().numpy().ravel() for name in "ab"]) for k in (i, j))
        expected = np.linalg.norm(x - y) / math.sqrt((np.linalg.norm(x) ** 2 + np.linalg.norm(y) ** 2) / 2)
        assert distance == pytest.approx(expected, rel=1e-6)


def test_the_smallest_difference_is_seen_and_none_is_exactly_zero():
    value = torch.ones(1000)
    other = value.clone()
    other[7] = torch.nextafter(other[7], torch.tensor(2.0))
    tiny = torch.zeros(1000)
    tiny[0] = torch.finfo(torch.float32).tiny / 4
    states = [{"a": value}, {"a": value.clone()}, {"a": other}]
    found = relative_distances(states, [(0, 1), (0, 2)], ["a"])
    assert found[0, 1] == 0
    assert found[0, 2] == pytest.approx(2**-23 / math.sqrt(1000), rel=1e-5)
    assert relative_distances([{"a": tiny}, {"a": torch.zeros(1000)}], [(0, 1)], ["a"])[0, 1] > 0


def test_growth_is_fitted_from_the_first_difference_until_one_percent():
    steps = [0, 1, 2, 4, 8, 16, 32, 64]
    distances = [0.0, 0.0, *(1e-9 * math.exp(0.3 * (step - 2)) for step in (2, 4, 8, 16, 32)), 0.5]
    growth = growth_of(steps, distances)
    assert growth is not None
    assert growth.rate == pytest.approx(0.3)
    assert growth.r2 == pytest.approx(1)
    assert (growth.first, growth.last) == (2, 32)
    assert growth_of(steps, [0.0] * 8) is None
    assert growth_of([0, 1, 2], [1e-9, 1e-8, 0.5]) is None


def test_the_separation_step_is_interpolated_in_the_logarithm():
    assert separation_step([0, 10, 20], [1e-6, 1e-3, 1e-1]) == pytest.approx(15)
    assert separation_step([0, 10], [0.5, 0.6]) == 0
    assert separation_step([0, 10], [0.0, 0.6]) == 10
    assert separation_step([0, 10], [0.0, 1e-5]) == math.inf


def test_a_file_of_objects_is_not_unpickled(tmp_path):
    path = tmp_path / "step-00000000.pt"
    torch.save({"a": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(UsageError, match="holds Python objects, which are not unpickled here"):
        read_state(path)
