import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from symbreak.sweeps.compare.predictions import (
    Predictions,
    binomial_interval,
    churn,
    error_consistency,
    independent_churn,
    read_predictions,
)

IMAGES, CLASSES = 4000, 10


def guesses(accuracy, seed):
    """Predictions that are correct with a probability, and else one of the wrong classes, independently."""
    random = np.random.default_rng(seed)
    labels = np.random.default_rng(0).integers(0, CLASSES, IMAGES)
    wrong = (labels + random.integers(1, CLASSES, IMAGES)) % CLASSES
    return Predictions(np.where(random.random(IMAGES) < accuracy, labels, wrong), labels, CLASSES)


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.9), (0.95, 0.6), (0.1, 0.1), (1.0, 0.8)])
def test_the_churn_of_independent_runs_is_the_expected_one_within_its_interval(first, second):
    a, b = guesses(first, 1), guesses(second, 2)
    low, high = binomial_interval(churn(a, b), IMAGES, 0.999)
    assert low <= independent_churn(first, second, CLASSES) <= high
    assert high - low < 0.06


def test_equal_predictions_have_no_churn_and_full_agreement():
    a = guesses(0.9, 1)
    assert churn(a, a) == 0
    assert binomial_interval(0.0, IMAGES)[0] == 0
    assert error_consistency(a, a) == 1


def test_error_consistency_is_cohens_kappa_of_being_correct():
    a, b = guesses(0.9, 1), guesses(0.7, 2)
    expected = cohen_kappa_score(a.classes == a.labels, b.classes == b.labels)
    assert error_consistency(a, b) == pytest.approx(expected, abs=1e-12)
    assert abs(expected) < 0.05


def test_other_images_are_refused():
    a = guesses(0.9, 1)
    with pytest.raises(ValueError, match="different images"):
        churn(a, Predictions(a.classes, a.labels[::-1], CLASSES))


def test_a_missing_or_torn_file_gives_no_predictions(tmp_path):
    assert read_predictions(tmp_path) is None
    (tmp_path / "test_logits.npz").write_bytes(b"PK\x03\x04 torn")
    assert read_predictions(tmp_path) is None
