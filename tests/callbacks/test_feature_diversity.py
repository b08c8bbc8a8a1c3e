import math

import numpy as np
import pytest
from tests.callbacks.training import Wrapped, images, train
from torch import nn

from symbreak.callbacks import FeatureDiversity


def test_the_logged_values_are_those_of_the_weights_and_features():
    conv, head = nn.Conv2d(3, 6, 3), nn.Linear(216, 10)
    network = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head)
    weights = [layer.weight.detach().clone().numpy() for layer in (conv, head)]
    (x, _) = next(iter(images()))
    features = conv(x[:8]).detach().transpose(0, 1).flatten(1).numpy()
    _, logger = train(Wrapped(network), [FeatureDiversity(every_n_steps=1)], steps=1)

    def mean(matrix):
        return (matrix.sum() - len(matrix)) / (len(matrix) * (len(matrix) - 1))

    backward = [mean(np.corrcoef(np.moveaxis(w, 1, 0).reshape(w.shape[1], -1))) for w in weights]
    row = {key: series[0] for key in logger.keys("diversity") if (series := logger.series(key)).get(0) is not None}
    assert row["diversity/backward_correlation/network.0"] == pytest.approx(backward[0], abs=1e-6)
    assert row["diversity/backward_correlation"] == pytest.approx(np.mean(backward), abs=1e-6)
    assert row["diversity/total"] == pytest.approx(sum(math.log(1 - b**2) / 2 for b in backward), rel=1e-5)
    forward = mean(np.corrcoef(weights[0].reshape(6, -1)))
    assert row["diversity/forward_correlation/network.0"] == pytest.approx(forward, abs=1e-6)
    assert row["diversity/kernel_correlation"] == pytest.approx(mean(np.corrcoef(weights[0].reshape(18, -1))), abs=1e-6)
    assert row["diversity/feature_correlation"] == pytest.approx(mean(np.abs(np.corrcoef(features))), abs=1e-6)
    assert "diversity/kernel_correlation/network.3" not in row


def test_a_symmetric_layer_makes_the_total_minus_infinity():
    head = nn.Linear(4, 10)
    nn.init.constant_(head.weight, 0.5)
    _, logger = train(
        Wrapped(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), head)), [FeatureDiversity(every_n_steps=1)], steps=1
    )
    assert logger.series("diversity/total")[0] == -math.inf


def test_undefined_correlations_have_no_key():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(256, 1), nn.Linear(1, 3), nn.Linear(3, 10))
    batch = images(count=1, channels=1, batch_size=1)
    _, logger = train(Wrapped(network), [FeatureDiversity(every_n_steps=1)], steps=1, loader=batch)

    def measures(layer):
        keys = (key.split("/") for key in logger.keys("diversity"))
        return {key[1] for key in keys if key[2:] == [f"network.{layer}"]}

    assert measures(0) == {"feature_correlation"}  # one input, and filters of one number
    assert measures(2) == set()  # one filter, inputs of one number, one channel
    assert measures(3) == set()  # filters of one number, and channels of one number for a batch of one
    assert measures(4) == {"forward_correlation", "backward_correlation"}
    assert all(math.isfinite(value) for value in logger.series("diversity/total").values())
