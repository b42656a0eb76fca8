"""GLUE's tasks as published, and as on the hub, from files made on the spot."""

import numpy as np
import pandas
import pytest

from fedrac.data.glue import TASKS, glue

ARCHIVE = {  # header and one row of train.tsv; the texts hold a quote that opens nothing
    "cola": (None, ["gj04", "{label}", "", 'the film is "good']),
    "sst2": (["sentence", "label"], ['the film is "good', "{label}"]),
    "mrpc": (["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], ["{label}", "1", "2", 'the "film', "a film"]),
    "stsb": (["index", "genre", "sentence1", "sentence2", "score"], ["0", "x", 'the "film', "a film", "{label}"]),
    "qqp": (["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], ["0", "1", "2", '"a', "null", "{label}"]),
    "mnli": (["index", "sentence1", "sentence2", "label1", "gold_label"], ["0", '"a', "the", "neutral", "{label}"]),
    "qnli": (["index", "question", "sentence", "label"], ["0", '"a', "the", "{label}"]),
    "rte": (["index", "sentence1", "sentence2", "label"], ["0", '"a', "the", "{label}"]),
    "wnli": (["index", "sentence1", "sentence2", "label"], ["0", '"a', "the", "{label}"]),
}
NUMBERED = ("cola", "sst2", "mrpc", "qqp", "wnli")  # the archive has numbers there, names in the others


def write(folder, name, stem, labels):
    header, row = ARCHIVE[name]
    place = folder / TASKS[name].folder
    place.mkdir(exist_ok=True)
    lines = ["\t".join(cell.format(label=label) for cell in row) for label in labels]
    (place / f"{stem}.tsv").write_text("\n".join((["\t".join(header)] if header else []) + lines) + "\n")


@pytest.mark.parametrize("name", ARCHIVE)
def test_the_published_archive(tmp_path, tokenizer, name):
    task = TASKS[name]
    numbers = [0, 1, 1] if task.classes else [0.5, 5.0, 2.25]
    labels = numbers if name in NUMBERED or not task.classes else [task.classes[i] for i in numbers]
    write(tmp_path, name, "train", labels)
    write(tmp_path, name, "dev_matched" if name == "mnli" else "dev", labels[::-1])
    data = glue(name, str(tmp_path), tokenizer, max_length=None)
    assert data.train.targets.ravel().tolist() == numbers and data.test.targets.ravel().tolist() == numbers[::-1]
    assert (data.labels, data.metrics) == (tuple(task.classes), tuple(task.metrics))
    assert data.task.name == ("classification" if task.classes else "regression")
    ids, _, *types = data.train.inputs.padded()[0]
    assert 1 in ids and len(types) == len(task.text) - 1  # the quote is an unknown word; pairs have types


def test_a_copy_of_the_hubs_files(tmp_path, tokenizer):
    frame = pandas.DataFrame({"premise": ["a film"] * 3, "hypothesis": ["the film"] * 3, "label": [2, 0, 1]})
    (tmp_path / "mnli").mkdir()
    frame.to_parquet(tmp_path / "mnli" / "train-00000-of-00001.parquet")
    frame.to_parquet(tmp_path / "mnli" / "validation_matched-00000-of-00001.parquet")
    frame[::-1].to_json(tmp_path / "mnli" / "validation_mismatched.jsonl", orient="records", lines=True)
    for name, expected in (("mnli", [2, 0, 1]), ("mnli_mismatched", [1, 0, 2])):
        for path in (tmp_path, tmp_path / "mnli"):
            data = glue(name, str(path), tokenizer, max_length=None)
            assert (data.train.targets.tolist(), data.test.targets.tolist()) == ([2, 0, 1], expected)


def test_the_hub(monkeypatch, tokenizer):
    import datasets

    asked = []
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(2, TASKS["cola"].classes)}
    )
    parts = {
        part: datasets.Dataset.from_dict({"sentence": ["good", "bad"], "label": labels}, features)
        for part, labels in (("train", [1, 0]), ("validation", [0, 1]), ("test", [-1, -1]))
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or parts)
    data = glue("cola", tokenizer=tokenizer, max_length=None)
    assert asked == [(("nyu-mll/glue", "cola"), {"revision": None})]
    assert (data.train.targets.tolist(), data.test.targets.tolist()) == ([1, 0], [0, 1])


def test_what_is_wrong_is_named(tmp_path, tokenizer, no_hub):
    for arguments, error, message in (
        ({"name": "rtee"}, ValueError, r"data\.name=rtee is no task of GLUE: choose rte"),
        ({"name": "SST-2"}, ValueError, "choose sst2"),
        ({"name": "rte", "path": str(tmp_path)}, FileNotFoundError, "has no train.tsv .* a folder with GLUE's rte"),
        ({"name": "rte"}, ConnectionError, r"nyu-mll/glue \(rte\) could not be loaded .* data=glue data\.path=PATH"),
    ):
        with pytest.raises(error, match=message):
            glue(**arguments, tokenizer=tokenizer)
    write(tmp_path, "rte", "train", ["entailment", "hidden"])
    write(tmp_path, "rte", "dev", ["entailment"])
    with pytest.raises(ValueError, match=r"train\.tsv, data row 2, holds 'hidden', which is not one of .*entailment"):
        glue("rte", str(tmp_path), tokenizer, max_length=None)


def test_scores_stay_numbers_of_the_scale(tmp_path, tokenizer):
    write(tmp_path, "stsb", "train", [0, 5])
    write(tmp_path, "stsb", "dev", [3.2])
    assert np.allclose(glue("stsb", str(tmp_path), tokenizer, max_length=None).test.targets, [[3.2]])
