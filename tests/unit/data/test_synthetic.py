import numpy as np
import pytest

from fedrac.data.synthetic import linear_regression, logistic_regression


def fit(examples):
    """Least-squares weights and the mean squared residual."""
    x, y = examples.inputs.astype(float), examples.targets.astype(float)
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    return weights, np.square(x @ weights - y).mean()


def test_linear_regression_has_the_stated_sizes_and_noise():
    data = linear_regression(600, 200, features=4, outputs=3, noise=0.5, clients=7)
    assert (data.task.name, data.outputs) == ("regression", 3)
    assert data.train.inputs.shape == (600, 4) and data.test.targets.shape == (200, 3)
    assert data.train.targets.dtype == np.float32
    assert set(np.bincount(data.train.groups)) <= {85, 86} and len(np.bincount(data.test.groups)) == 7
    weights, residual = fit(data.train)
    assert residual == pytest.approx(0.25, rel=0.1)
    assert np.abs(weights - fit(data.test)[0]).max() < 0.2  # one truth in both parts


def test_without_noise_all_clients_share_the_truth():
    assert fit(linear_regression(noise=0).train)[1] < 1e-10


def test_heterogeneity_moves_truth_and_features_of_each_client():
    data = linear_regression(4000, 400, features=3, outputs=2, noise=0, clients=4, heterogeneity=1.0)
    means = [data.train.inputs[data.train.groups == client].mean(axis=0) for client in range(4)]
    assert np.std(means, axis=0).min() > 0.2
    assert fit(data.train)[1] > 0.1
    for client in range(4):
        mine = fit(data.train.take(np.flatnonzero(data.train.groups == client)))
        theirs = fit(data.test.take(np.flatnonzero(data.test.groups == client)))
        assert mine[1] < 1e-10 and np.allclose(mine[0], theirs[0], atol=1e-4)  # the same client in both parts


def test_condition_is_the_ratio_of_the_features_variances():
    x = linear_regression(20000, 10, features=5, outputs=2, clients=1, condition=16).train.inputs
    assert x.var(axis=0) == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16], rel=0.1)


@pytest.mark.parametrize("heterogeneity", [0.0, 1.0])
def test_unit_examples_have_length_one_and_their_targets_follow(heterogeneity):
    data = linear_regression(400, 40, features=3, outputs=2, noise=0, clients=4, heterogeneity=heterogeneity, unit=True)
    assert np.linalg.norm(data.train.inputs, axis=1) == pytest.approx(np.ones(400), rel=1e-5)
    for client in range(4):
        assert fit(data.train.take(np.flatnonzero(data.train.groups == client)))[1] < 1e-10


def test_a_little_heterogeneity_is_a_little_change():
    same, near, far = (linear_regression(noise=0, heterogeneity=h).train for h in (0.0, 0.01, 1.0))
    assert np.abs(near.targets - same.targets).max() < 0.1 < np.abs(far.targets - same.targets).max()


def test_logistic_labels_follow_the_largest_logit_up_to_noise():
    clean, noisy = (logistic_regression(noise=noise) for noise in (0.0, 1.0))
    assert (clean.task.name, clean.outputs, clean.train.targets.dtype) == ("classification", 10, np.int64)
    assert set(clean.train.targets) == set(range(10))
    assert np.array_equal(clean.train.inputs, noisy.train.inputs)
    assert 0.1 < (clean.train.targets == noisy.train.targets).mean() < 0.9


def test_the_seed_names_the_draw():
    first, again, other = (logistic_regression(seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.train.inputs, again.train.inputs)
    assert not np.array_equal(first.train.inputs, other.train.inputs)
    assert not np.array_equal(first.train.inputs[:10], first.test.inputs[:10])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"features": 0}, "data.features=0 is not positive"),
        ({"examples": 5, "clients": 6}, "data.clients=6 is more than the 5 training"),
        ({"test_examples": 5, "clients": 6}, "or 5 test examples"),
        ({"noise": -1.0}, "data.noise=-1.0 is not a number from 0 up"),
        ({"heterogeneity": float("nan")}, "data.heterogeneity=nan is not a number"),
        ({"condition": 0.5}, "data.condition=0.5 is not a number from 1 up"),
    ],
)
def test_impossible_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        linear_regression(**arguments)
