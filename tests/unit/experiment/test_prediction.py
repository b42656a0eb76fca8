"""What a run's model says of rows and arrays; of texts see tests/hf."""

import json
import math

import numpy as np
import pandas
import pytest
import torch

from fedrac.cli import commands
from fedrac.experiment import compose, finished_run
from fedrac.experiment.run import in_process, run

ROWS = pandas.DataFrame({"age": [-2.0, -1.0, 1.0, 2.0] * 10, "dose": [0.5, 0.0, 0.0, 0.5] * 10})


def finish(tmp_path, frame, *overrides):
    frame.to_csv(tmp_path / "t.csv", index=False)
    chosen = f"""
        data=table data.path={tmp_path}/t.csv data.target=y partition=iid partition.clients=2 cohort.size=2
        pretrain=none model=linear model.inputs=2 adapt.full=[*.bias] rounds=3 local.lr=0.5
        seed=1 output_dir={tmp_path}/run
    """.split()
    settings = compose.load([*chosen, *overrides])
    run(settings, in_process(settings), tmp_path / "run")
    return tmp_path / "run"


def answers(capsys, *arguments):
    capsys.readouterr()
    assert commands.run("predict", [str(argument) for argument in arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def outputs(folder, inputs):
    with torch.no_grad():
        return finished_run.read(folder).model()(torch.tensor(inputs, dtype=torch.float32)).double()


def test_rows_of_a_table_and_of_an_array(tmp_path, capsys):
    frame = ROWS.assign(y=np.where(ROWS.age > 0, "old", "young"))
    folder = finish(tmp_path, frame, "model.outputs=2", "data.standardize=false")
    inputs = ROWS[:4].to_numpy()
    np.save(tmp_path / "x.npy", inputs)
    found = answers(capsys, folder, tmp_path / "x.npy")
    assert [answer["label"] for answer in found] == ["young", "young", "old", "old"]
    for answer, logits in zip(found, outputs(folder, inputs), strict=True):
        assert answer["probabilities"]["old"] == pytest.approx(1 / (1 + math.exp(logits[1] - logits[0])), abs=1e-5)
        assert answer["probability"] == max(answer["probabilities"].values())
    ROWS[:4].assign(y="").to_csv(tmp_path / "new.csv", index=False)  # the target is not read
    assert answers(capsys, folder, tmp_path / "new.csv") == found


def test_values_of_a_regression(tmp_path, capsys):
    folder = finish(tmp_path, ROWS.assign(y=3 * ROWS.age), "model.outputs=1", "data.task=regression")
    np.save(tmp_path / "x.npy", np.array([[0.0, 1.0]]))
    expected = float(outputs(folder, [[0.0, 1.0]]))
    assert answers(capsys, folder, tmp_path / "x.npy") == [{"value": pytest.approx(expected)}]


def test_what_cannot_be_predicted_is_named(tmp_path, monkeypatch):
    folder = finish(tmp_path, ROWS.assign(y=ROWS.age), "model.outputs=1", "data.task=regression")
    np.save(tmp_path / "wide.npy", np.zeros((2, 3)))
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    (tmp_path / "broken.npy").write_text("no array")
    for arguments, message in (
        ([], r"takes no texts: give a \.npy file"),
        ([tmp_path / "t.csv"], r"scaled its columns by its training rows \(data\.standardize=true\)"),
        ([tmp_path / "wide.npy"], r"does not take inputs of shape \(3,\)"),
        ([tmp_path / "words.npy"], r"holds <U1 of shape \(1, 1\): make it \(N, \.\.\.\) numbers"),
        ([tmp_path / "broken.npy"], r"broken\.npy cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            commands.run("predict", [str(folder), *map(str, arguments)])
