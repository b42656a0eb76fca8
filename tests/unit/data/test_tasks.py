import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedrac.data import tasks

LOGITS = torch.tensor([[0.0, math.log(3)], [5.0, 5.0], [2.0, 0.0]])
LABELS = torch.tensor([1, 0, 1])
PREDICTED, VALUES = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]])


def test_cross_entropy_of_each_example():
    expected = torch.tensor([math.log(4 / 3), math.log(2), math.log(1 + math.exp(2))])
    torch.testing.assert_close(tasks.named("classification").loss(LOGITS, LABELS), expected.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 15, 16, 40])
def test_a_gradient_that_is_written_out_is_that_of_the_loss(classes, dtype):
    generator = torch.Generator().manual_seed(0)
    outputs = (30 * torch.randn(50, classes, generator=generator)).to(dtype).requires_grad_()
    targets, weight = (
        torch.randint(classes, (50,), generator=generator),
        torch.rand(50, generator=generator, dtype=dtype),
    )
    task = tasks.named("classification")
    expected = task.loss(outputs, targets)
    expected.backward(weight.to(expected.dtype))
    losses, gradient = task.gradient(outputs.detach(), targets, weight)
    torch.testing.assert_close(losses, expected.detach(), rtol=0, atol=0)
    torch.testing.assert_close(gradient, outputs.grad)
    assert gradient.is_contiguous()


def test_another_loss_is_differentiated():
    assert tasks.with_loss("classification", lambda outputs, targets: outputs.sum(1)).gradient is None


@pytest.mark.parametrize("classes", [2, 15, 16, 40])
def test_the_gradient_of_cross_entropy_is_softmax_minus_one_hot(classes):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(7, classes, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(classes, (7,), generator=generator)
    losses = tasks.named("classification").loss(outputs, targets)
    losses.sum().backward()
    shares = outputs.detach().exp() / outputs.detach().exp().sum(1, keepdim=True)
    torch.testing.assert_close(losses.detach(), -shares.gather(1, targets[:, None])[:, 0].log())
    torch.testing.assert_close(outputs.grad, shares - torch.eye(classes, dtype=torch.float64)[targets])


def test_half_the_squared_error_of_each_example():
    torch.testing.assert_close(tasks.named("regression").loss(PREDICTED, VALUES), torch.tensor([2.5, 4.5]))


def test_the_gradient_of_the_regression_is_the_residual():
    outputs = PREDICTED.clone().requires_grad_()
    tasks.named("regression").loss(outputs, VALUES).sum().backward()
    torch.testing.assert_close(outputs.grad, PREDICTED - VALUES)


def test_metrics_are_sums():
    found = tasks.named("classification").sums(LOGITS, LABELS)
    assert found["accuracy"] == 2.0
    assert found["loss"] == pytest.approx(float(tasks.named("classification").loss(LOGITS, LABELS).sum()))
    assert tasks.named("regression").sums(PREDICTED, VALUES) == {"loss": 7.0, "mse": 7.0}


@pytest.mark.parametrize(
    "kind, outputs, targets", [("classification", LOGITS, LABELS), ("regression", PREDICTED, VALUES)]
)
def test_metrics_of_parts_add_up(kind, outputs, targets):
    whole = tasks.named(kind).sums(outputs, targets)
    parts = [tasks.named(kind).sums(outputs[part], targets[part]) for part in (slice(1), slice(1, None))]
    assert {name: sum(part[name] for part in parts) for name in whole} == pytest.approx(whole)


def test_metrics_keep_no_graph():
    outputs = LOGITS.clone().requires_grad_()
    assert all(isinstance(value, float) for value in tasks.named("classification").sums(outputs, LABELS).values())


def test_a_language_model_predicts_the_next_token():
    """By hand: each row's mean over the tokens after its first, padding left out; one token alone predicts nothing."""
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = torch.tensor([[2, 3, 4, -100], [0, -100, -100, -100], [-100, -100, -100, -100]])
    log = logits.log_softmax(2)
    first = -(log[0, 0, 2] + log[0, 1, 3] + log[0, 2, 4]) / 3
    expected = torch.stack([first, -log[1, 0, 0], torch.zeros_like(first)])
    torch.testing.assert_close(tasks.named("causal_lm").loss(logits, ids), expected)
    best = torch.full((1, 4, 5), -9.0).scatter(2, torch.tensor([[[2], [3], [0], [0]]]), 9.0)
    assert tasks.named("causal_lm").sums(best, ids[:1])["accuracy"] == pytest.approx(2 / 3)


def test_what_fits_passes():
    tasks.named("classification").check(LOGITS, LABELS.numpy())
    tasks.named("classification").check(LOGITS, np.array([0, 1]))
    tasks.named("regression").check(PREDICTED, VALUES.numpy())
    tasks.named("causal_lm").check(torch.zeros(1, 2, 5), np.array([0, 4]))


def test_read_only_targets_are_fine():
    labels = np.array([0, 1])
    labels.flags.writeable = False
    tasks.named("classification").check(LOGITS, labels)


BAD = {
    "label": (
        "classification",
        torch.zeros(2, 5),
        np.array([0, 7]),
        "label 7 but the model has 5 outputs: set model.outputs=8",
    ),
    "negative": ("classification", torch.zeros(2, 5), np.array([-1]), "hold the label -1: number the classes"),
    "floats": ("classification", torch.zeros(2, 5), np.zeros(2), "a classification has .* integer labels"),
    "sequence": ("classification", torch.zeros(2, 4, 5), np.array([0]), r"outputs have shape \(2, 4, 5\)"),
    "values": (
        "regression",
        torch.zeros(2, 5),
        np.zeros((2, 3), np.float32),
        "has 5 outputs: set model.outputs=3",
    ),
    "no sequence": ("causal_lm", torch.zeros(2, 5), np.array([0]), "choose a model with a language-model head"),
    "token": ("causal_lm", torch.zeros(2, 3, 5), np.array([7]), "token 7 but the model knows 5 tokens"),
    "flat": ("regression", torch.zeros(2, 5), np.zeros(2), r"shape \(2,\): a regression has \(N, k\) values"),
}


@pytest.mark.parametrize("kind, outputs, targets, message", BAD.values(), ids=BAD)
def test_what_does_not_fit_names_the_mend(kind, outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        tasks.named(kind).check(outputs, targets)


# --- several labels, a label for each token ---------------------------------------------------------------------------


def test_binary_cross_entropy_is_a_mean_over_the_labels():
    outputs = torch.tensor([[0.0, math.log(3)], [-math.log(3), 2.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    expected = [(math.log(2) + math.log(4 / 3)) / 2, (math.log(4 / 3) + math.log(1 + math.exp(2))) / 2]
    torch.testing.assert_close(tasks.named("multi_label").loss(outputs, targets), torch.tensor(expected).double())
    found = tasks.named("multi_label").sums(outputs, targets)
    assert found == {"loss": pytest.approx(sum(expected)), "accuracy": 0.5 + 0.5, "exact_match": 0.0}
    right = tasks.named("multi_label").sums(outputs, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert (right["accuracy"], right["exact_match"]) == (2.0, 2.0)


def test_a_tagging_is_a_classification_of_every_labelled_token():
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([[2, 0, -100, 1], [-100, -100, 1, -100]])
    tagging, each = tasks.named("tagging"), tasks.named("classification")
    for row, (out, y) in enumerate(zip(logits, labels, strict=True)):
        there = y != -100
        own, alone = tagging.sums(logits[row : row + 1], labels[row : row + 1]), each.sums(out[there], y[there])
        assert own == pytest.approx({name: total / int(there.sum()) for name, total in alone.items()})
    nothing = torch.full((1, 4), -100)
    assert tagging.sums(logits[:1], nothing) == {"loss": 0.0, "accuracy": 0.0}


FIT = {
    "widths": ("multi_label", torch.zeros(2, 5), np.zeros((2, 3), np.float32), "5 outputs: set model.outputs=3"),
    "two": ("multi_label", torch.zeros(2, 3), np.full((2, 3), 2, np.float32), r"hold \[2.0, 2.0, 2.0\] in row 0: a mu"),
    "tags": ("tagging", torch.zeros(2, 4, 3), np.array([[0, 3], [1, -100]]), "label 3 but the model has 3 outputs"),
    "negative": ("tagging", torch.zeros(2, 4, 3), np.array([[0, -1]]), "hold the label -1"),
    "one label": ("tagging", torch.zeros(2, 3), np.array([[0, 1]]), r"a tagging gives \(rows, tokens, classes\)"),
    "form": ("tagging", torch.zeros(2, 4, 3), np.array([0, 1]), r"a tagging has \(N, k\) integer labels"),
    "no numbers": ("classification", torch.zeros(2, 3, dtype=torch.int64), np.array([0]), "make them real numbers"),
}


@pytest.mark.parametrize("kind, outputs, targets, message", FIT.values(), ids=FIT)
def test_targets_of_several_must_fit(kind, outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        tasks.named(kind).check(outputs, targets)


# --- of one's own -----------------------------------------------------------------------------------------------------

doubled = replace(tasks.named("regression"), loss=lambda outputs, targets: 2 * (outputs - targets).abs().sum(1))


def absolute(outputs, targets):
    return (outputs - targets).abs().sum(1)


def test_a_task_by_its_import_path():
    found = tasks.named(f"{__name__}.doubled")
    assert found.name == f"{__name__}.doubled" and tasks.named(found.name) == found
    torch.testing.assert_close(found.loss(PREDICTED, VALUES), torch.tensor([6.0, 6.0]))
    assert found.sums(PREDICTED, VALUES) == {"loss": 12.0, "mse": 7.0}


@pytest.mark.parametrize("loss", [absolute, f"{__name__}.absolute"])
def test_a_loss_of_ones_own_takes_the_place_of_the_tasks(loss):
    found = tasks.with_loss("regression", loss)
    assert found.name == "regression" and found.sums(PREDICTED, VALUES) == {"loss": 6.0, "mse": 7.0}


@pytest.mark.parametrize("make, message", [
    (lambda: tasks.named("ranking"), "data.task=ranking is unknown: choose one of classification, regression, multi_l"),
    (lambda: tasks.named("no_module.task"), "data.task=no_module.task cannot be used .*PYTHONPATH"),
    (lambda: tasks.named(f"{__name__}.absolute"), "is a function: make it a fedrac.data.tasks.Task, or"),
    (lambda: tasks.with_loss("regression", f"{__name__}.nothing"), r"data.loss=.*nothing cannot be used"),
    (lambda: tasks.with_loss("regression", f"{__name__}.LABELS"), "is a Tensor: give the import path of a function"),
])  # fmt: skip
def test_what_is_no_task_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
