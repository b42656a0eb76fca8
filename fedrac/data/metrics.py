"""Metrics that are no means over examples: they are taken of the predictions for a whole test set at once.

Each takes predictions and targets, (N,) labels or (N, k) values, and returns one number. They are scikit-learn's and
SciPy's, named as in GLUE; or a user's own, named by its import path, e.g. ``my_module.balanced``, and recorded
under the last part of that.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.loading import target

Values = NDArray[Any]
Metric = Callable[[Values, Values], float]


def is_lower_better(name: str) -> bool:
    """Whether a smaller value of the metric is a better one; so it is of how far clients lie apart."""
    return name.endswith(("loss", "mse", "objective")) or name.startswith("clients/sd_")


def check(names: Sequence[str], task: str, key: str = "data.metrics") -> None:
    """Make sure, before training, that the metrics exist and suit the task.

    Args:
        names: names of metrics here, or import paths of functions.
        task: what the targets are, by its name.
        key: where the names stand in the configuration, for the errors.

    Raises:
        ValueError: one does not.
    """
    known = _KNOWN.get(task, {})
    for name in names:
        if "." in name and (known or "." in task):  # of a task of one's own, its author knows
            target.function(name, key)
        elif name not in known:
            near = difflib.get_close_matches(name, known, 1) or list(known) or ["none"]
            raise ValueError(
                f"{key}: {name!r} is no metric of a {task}; choose of {', '.join(near)}, or a function's import path"
            )


def measure(names: Sequence[str], predictions: Values, targets: Values) -> dict[str, float]:
    """The named metrics of a whole test set; NaN where one is not defined (of constant values, say)."""
    return {name.rpartition(".")[2]: float(_metric(name)(predictions, targets)) for name in names}


def _metric(name: str) -> Metric:
    known = {name: metric for metrics in _KNOWN.values() for name, metric in metrics.items()}
    return known[name] if name in known else target.function(name, "data.metrics")


def _f1(predictions: Values, targets: Values) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(targets, predictions, zero_division=0.0))


def _macro_f1(predictions: Values, targets: Values) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(targets, predictions, average="macro", zero_division=0.0))


def _micro_f1(predictions: Values, targets: Values) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(targets, predictions, average="micro", zero_division=0.0))


def _matthews(predictions: Values, targets: Values) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(targets, predictions))


def _pearson(predictions: Values, targets: Values) -> float:
    from scipy.stats import pearsonr

    return _correlation(lambda x, y: pearsonr(x, y).statistic, predictions, targets)


def _spearman(predictions: Values, targets: Values) -> float:
    from scipy.stats import spearmanr

    return _correlation(lambda x, y: spearmanr(x, y).statistic, predictions, targets)


def _correlation(of: Callable[[Values, Values], float], predictions: Values, targets: Values) -> float:
    """Mean over the k values; NaN, without a warning, where one side is constant."""
    columns = list(zip(predictions.T, targets.T, strict=True))
    if len(targets) < 2 or any(np.ptp(side) == 0 for pair in columns for side in pair):
        return float("nan")
    return float(np.mean([of(x, y) for x, y in columns]))


_KNOWN: dict[str, dict[str, Metric]] = {
    "classification": {
        "f1": _f1,  # of class 1 against class 0
        "macro_f1": _macro_f1,
        "matthews": _matthews,
    },
    "multi_label": {"macro_f1": _macro_f1, "micro_f1": _micro_f1},
    "regression": {"pearson": _pearson, "spearman": _spearman},
}
