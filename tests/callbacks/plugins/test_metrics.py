import pytest
import torch

from symbreak.callbacks import FeatureAsymmetry, FeatureCorrelation, InputCosine, MeanSquare, functional

PAIRS = [
    (MeanSquare, functional.mean_square),
    (InputCosine, functional.input_cosine),
    (FeatureAsymmetry, lambda x: functional.asymmetry(x, 1)),
    (FeatureCorrelation, functional.feature_correlation),
]


def features(scale=1.0):
    return (torch.randn(12, 5, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.2) * scale


@pytest.mark.parametrize(("metric", "function"), PAIRS)
@pytest.mark.parametrize("parts", [(12,), (4, 8), (2, 3, 7)])
def test_parts_give_the_value_of_all_the_data(metric, function, parts):
    x, metric = features(), metric()
    for part in x.split(parts):
        metric.update(part)
    assert float(metric.compute()) == pytest.approx(float(function(x)), rel=1e-5)


@pytest.mark.parametrize(("metric", "function"), PAIRS)
def test_states_of_two_ranks_add_up(metric, function):
    x = features()
    whole, other = metric(), metric()
    whole.update(x[:5])
    other.update(x[5:])
    for name, reduction in whole._reductions.items():
        setattr(whole, name, reduction(torch.stack((getattr(whole, name), getattr(other, name)))))
    assert float(whole.compute()) == pytest.approx(float(function(x)), rel=1e-5)


@pytest.mark.parametrize(("metric", "function"), PAIRS[1:])
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_scale_does_not_matter(metric, function, scale):
    metric = metric()
    metric.update(features(scale))
    assert float(metric.compute()) == pytest.approx(float(function(features())), rel=1e-5)


def test_equal_and_constant_channels():
    x = torch.randn(6, 1, 3, 3).expand(6, 4, 3, 3)
    asymmetry, correlation = FeatureAsymmetry(), FeatureCorrelation()
    asymmetry.update(x)
    correlation.update(torch.cat((x, torch.full((6, 1, 3, 3), 0.1)), 1))
    assert asymmetry.compute() == 0
    assert float(correlation.compute()) == pytest.approx(1)


def test_another_axis_of_channels():
    x = features().movedim(1, -1)
    asymmetry, correlation = FeatureAsymmetry(dim=-1), FeatureCorrelation(dim=-1)
    asymmetry.update(x)
    correlation.update(x)
    assert float(asymmetry.compute()) == pytest.approx(float(functional.asymmetry(x, -1)), rel=1e-6)
    assert float(correlation.compute()) == pytest.approx(float(functional.feature_correlation(x, -1)), rel=1e-5)
