import numpy as np
import pytest

from symbreak.sweeps.report.bootstrap import (
    LEAST,
    churn_interval,
    churns_differ,
    mean_churn,
    resampled_churn,
    spread_interval,
    spreads_differ,
)


def sample(scale, seed, count=10):
    return list(np.random.default_rng(seed).normal(0.9, scale, count))


def test_the_interval_of_a_spread_holds_it_about_as_often_as_it_says():
    # The percentile bootstrap of ten runs is known to be short: 95 % stands for about 80 to 90 %.
    held = [low <= 0.01 <= high for seed in range(100) for low, high in [spread_interval(sample(0.01, seed)) or (0, 0)]]
    assert 0.7 < np.mean(held) < 1


def test_fewer_than_five_runs_have_no_interval():
    assert spread_interval(sample(0.01, 0, LEAST - 1)) is None
    assert churn_interval(np.zeros((LEAST - 1, LEAST - 1))) is None
    assert spread_interval([0.5] * LEAST) == (0, 0)


def test_spreads_differ_where_they_do_and_seldom_where_they_do_not():
    assert spreads_differ(sample(0.001, 0), sample(0.05, 1), 0.99)
    wrong = [spreads_differ(sample(0.01, seed), sample(0.01, 1000 + seed), 0.95) for seed in range(60)]
    assert np.mean(wrong) < 0.2
    assert not spreads_differ([0.5] * 6, [0.5] * 6, 0.95)


def test_churn_is_the_mean_over_pairs_and_its_interval_resamples_runs():
    random = np.random.default_rng(0)
    position = random.normal(size=12)
    matrix = np.abs(position[:, None] - position[None, :])
    expected = np.mean([matrix[i, j] for i in range(12) for j in range(i)])
    assert mean_churn(matrix) == pytest.approx(expected)
    low, high = churn_interval(matrix) or (0, 0)
    assert low < expected < high
    by_hand = []
    for _ in range(2000):
        runs = random.integers(0, 12, 12)
        by_hand.append(np.mean([matrix[a, b] for k, a in enumerate(runs) for b in runs[:k] if a != b]))
    assert resampled_churn(matrix).std() == pytest.approx(np.std(by_hand), rel=0.1)
    assert resampled_churn(matrix).mean() == pytest.approx(np.mean(by_hand), rel=0.05)


def churn_of(level, seed, count=10):
    """Return the churn of runs that differ from one truth in a share of 300 predictions each."""
    wrong = np.random.default_rng(seed).random((count, 300)) < level
    return (wrong[:, None] != wrong[None]).mean(axis=-1)


def test_churns_differ_where_they_do_and_not_where_they_do_not():
    few, many = churn_of(0.02, 0), churn_of(0.1, 1)
    assert churns_differ(few, many, 0.95)
    assert not churns_differ(few, churn_of(0.02, 2), 0.999)
    assert not churns_differ(np.zeros((5, 5)), np.zeros((5, 5)), 0.95)
