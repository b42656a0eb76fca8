"""Metrics of a whole test set, against their definitions."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedrac.data import metrics
from fedrac.data.tasks import named
from fedrac.training.evaluation import measure

RIGHT = np.array([0, 0, 1, 1, 1, 0])
WRONG = np.array([0, 1, 1, 1, 0, 0])  # against RIGHT: 2 true positives, 2 true negatives, one false of each


def test_metrics_of_labels():
    found = metrics.measure(["f1", "macro_f1", "matthews"], WRONG, RIGHT)
    assert found == pytest.approx({"f1": 2 * 2 / (2 * 2 + 1 + 1), "macro_f1": 2 / 3, "matthews": (4 - 1) / 9})


def test_f1_is_that_of_class_one():
    assert metrics.measure(["f1"], np.array([1, 1, 1, 0]), np.array([1, 0, 0, 0])) == {"f1": pytest.approx(0.5)}
    assert metrics.measure(["f1"], np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])) == {"f1": pytest.approx(0.5)}
    assert metrics.measure(["f1"], np.array([0, 0]), np.array([1, 0])) == {"f1": 0.0}


def test_correlations():
    x = np.array([[1.0], [2.0], [3.0], [4.0]])
    found = metrics.measure(["pearson", "spearman"], x, x**3)
    expected = np.corrcoef(x[:, 0], x[:, 0] ** 3)[0, 1]
    assert found == pytest.approx({"pearson": expected, "spearman": 1.0}) and expected < 0.99
    assert math.isnan(metrics.measure(["pearson"], np.ones((4, 1)), x)["pearson"])


def test_metrics_must_suit_the_task():
    metrics.check(["f1", "matthews"], "classification")
    metrics.check([], "causal_lm")
    for name, task, message in (
        ("mathews", "classification", "'mathews' is no metric of a classification; choose of matthews"),
        ("f1", "regression", "choose of pearson, spearman"),
        ("f1", "causal_lm", "choose of none"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.check([name], task)


def ones(predictions, targets):
    """How often class 1 is predicted."""
    return (predictions == 1).mean()


def test_a_metric_of_ones_own_is_named_by_its_import_path():
    metrics.check([f"{__name__}.ones", "f1"], "classification")
    assert metrics.measure([f"{__name__}.ones"], WRONG, RIGHT) == {"ones": 0.5}
    for name, task, message in (
        ("no.such", "regression", r"evaluate.metrics=no.such cannot be used \(.*PYTHONPATH"),
        (f"{__name__}.twos", "classification", "evaluate.metrics=.*twos cannot be used"),
        (f"{__name__}.ones", "causal_lm", "evaluate.metrics: .* is no metric of a causal_lm"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.check([name], task, "evaluate.metrics")


def test_they_see_all_batches_at_once():
    """Means and a metric of the set, whatever the batches; a mean of batches' F1 would be another number."""
    logits = torch.eye(2)[torch.from_numpy(WRONG)] * 3
    targets = torch.from_numpy(RIGHT)
    for size in (1, 4, 6):
        parts = zip(logits.split(size), targets.split(size), strict=True)
        found = measure(nn.Identity(), named("classification"), ["f1", "matthews"], parts)
        assert found["f1"] == pytest.approx(2 / 3) and found["matthews"] == pytest.approx(1 / 3)
        assert found["accuracy"] == pytest.approx(4 / 6)


def test_of_values_they_are_taken_in_double_precision():
    outputs = torch.tensor([[1.0], [2.0], [4.0]])
    found = measure(
        nn.Identity(), named("regression"), ["pearson"], [(outputs[:2], outputs[:2]), (outputs[2:], outputs[2:])]
    )
    assert found == {"loss": 0.0, "mse": 0.0, "pearson": pytest.approx(1.0, abs=1e-12)}
