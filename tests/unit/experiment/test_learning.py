"""Small runs that learn: the next character, several labels, a label for each token, with a loss of one's own."""

import json
import logging
from itertools import pairwise

import numpy as np
import pytest
from torch import nn
from torch.nn import functional as F

from fedrac.cli import commands
from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run

TEXT = 8 * "".join(f"{one} sees the {two}. " for one in ("cat", "dog", "hen", "fox") for two in ("sun", "sea", "sky"))


def learn(folder, *overrides):
    """The first and the last test metrics of a small run."""
    chosen = f"""
        partition=iid partition.clients=4 cohort.size=4 method=fedavg pretrain=none seed=1 output_dir={folder}/run
        adapt.full=[*.bias]
    """.split()
    settings = compose.load([*chosen, *overrides])
    summary = run(settings, in_process(settings), folder / "run")
    return summary["initial"], summary["last"]


def custom(data, model, *more):
    targets = {"data": data, "model": model}
    named = [f"{key}=custom {key}._target_={__name__}.{name}" for key, name in targets.items()]
    return [*" ".join(named).split(), *more]


def answers(capsys, *arguments):
    capsys.readouterr()
    assert commands.run("predict", [str(argument) for argument in arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# --- the next character -----------------------------------------------------------------------------------------------


def test_an_lstm_learns_the_next_character(tmp_path):
    """After a space it must know the word before: below what a table of pairs of characters can reach."""
    (tmp_path / "text.txt").write_text(TEXT)
    first, last = learn(
        tmp_path, *f"data=characters data.path={tmp_path}/text.txt data.length=24 model=lstm model.tokens=24".split(),
        *["model.hidden=24", "model.layers=1", "rounds=20", "local.lr=0.02", "adapt.full=[*]"],
    )  # fmt: skip
    assert first["test/loss"] == pytest.approx(np.log(24), abs=0.3)
    assert last["test/loss"] < pairs_entropy() < 0.7 * first["test/loss"] and last["test/accuracy"] > 0.7


def pairs_entropy() -> float:
    """Nats of a character, the one before it known."""
    pairs, counts = np.unique(list(pairwise(TEXT)), axis=0, return_counts=True)
    before = {c: counts[pairs[:, 0] == c].sum() for c in set(TEXT)}
    return float(-sum(n * np.log(n / before[a]) for (a, _), n in zip(pairs, counts, strict=True)) / counts.sum())


# --- several labels at once -------------------------------------------------------------------------------------------


def signs(count=400):
    """A label for each number: whether it is positive. All labels together are chance for a single softmax."""
    x = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    return (x[100:], (x[100:] > 0)), (x[:100], (x[:100] > 0))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return {"logits": self.layer(x), "inputs": x}


def test_several_labels_at_once(tmp_path, capsys):
    first, last = learn(tmp_path, *custom("signs", "Linear"), *["rounds=15", "local.lr=0.1", "data.task=multi_label"])
    assert first["test/loss"] > 0.5 and last["test/loss"] < 0.15 and last["test/exact_match"] > 0.85
    np.save(tmp_path / "x.npy", np.array([[2, -2, 2], [-2, -2, -2]]))
    found = answers(capsys, tmp_path / "run", tmp_path / "x.npy")
    assert [answer["labels"] for answer in found] == [["0", "2"], []]
    assert found[0]["probabilities"]["1"] < 0.5 < found[0]["probabilities"]["0"]


# --- a label for each token -------------------------------------------------------------------------------------------


def words(count=500):
    """Ids of 300 words, of three kinds by their remainder; every fifth has no label."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 300, (count, 6))
    tags = np.where(rng.random(ids.shape) < 0.2, -100, ids % 3)
    return (ids[100:], tags[100:]), (ids[:100], tags[:100])


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(300, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return (self.head(self.embedding(ids)),)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_label_for_each_token(tmp_path, capsys, dtype):
    """In bfloat16, too, where ids beyond 256 would become others."""
    first, last = learn(tmp_path, *custom("words", "Tagger"), *f"rounds=8 local.lr=0.05 runtime.dtype={dtype}".split())
    assert first["test/loss"] > 1.0 and last["test/loss"] < 0.7 and last["test/accuracy"] > 0.8
    np.save(tmp_path / "x.npy", words()[0][0][:8])
    found = answers(capsys, tmp_path / "run", tmp_path / "x.npy")
    told, meant = np.array([answer["tags"] for answer in found]).astype(int), words()[0][0][:8] % 3
    assert told.shape == meant.shape and (told == meant).mean() > 0.9
    np.save(tmp_path / "x.npy", np.zeros((2, 6)))
    with pytest.raises(ValueError, match=r"x\.npy holds float64, but the run trained on integers"):
        answers(capsys, tmp_path / "run", tmp_path / "x.npy")


# --- a loss of one's own ----------------------------------------------------------------------------------------------


def numbers(count=60):
    x = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    return (x[20:], 3 * x[20:]), (x[:20], 3 * x[:20])


def absolute(outputs, targets):
    return F.l1_loss(outputs, targets, reduction="none").mean(1)


def test_a_loss_of_ones_own(tmp_path):
    loss = f"data.loss={__name__}.absolute"
    first, last = learn(tmp_path, *custom("numbers", "Linear", loss), *["rounds=20", "local.lr=0.2"])
    assert last["test/loss"] < 0.3 * first["test/loss"]
    assert last["test/mse"] > last["test/loss"] ** 2  # the metric is the task's, the loss is not


# --- BatchNorm --------------------------------------------------------------------------------------------------------


class Normed(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("group_norm", [False, True])
def test_the_first_lines_speak_of_batch_norm_once(tmp_path, caplog, group_norm):
    with caplog.at_level(logging.INFO, logger="fedrac"):
        learn(tmp_path, *custom("numbers", "Normed"), "rounds=1", f"model.group_norm={group_norm}")
    assert caplog.text.count("running statistics of 1 layers (layer.1, a BatchNorm1d, ...)") == (not group_norm)
