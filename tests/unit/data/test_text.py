"""Tables of texts: what becomes tokens, who is held out, and what is refused before training."""

import logging

import numpy as np
import pandas
import pytest

from fedrac.data import own
from fedrac.data.text import text
from fedrac.data.tokenizer import Tokenizer
from fedrac.data.validation import hold_out


@pytest.fixture
def frame():
    """30 reviews of 10 films; the label is in the text."""
    rows = np.arange(30)
    words = np.where(rows % 3 == 0, "bad", "good")
    return pandas.DataFrame(
        {
            "text": [f"the film is {word}{' and good' * (row % 2)}" for row, word in enumerate(words)],
            "label": np.where(rows % 3 == 0, "rotten", "fresh"),
            "film": [f"f{row % 10}" for row in rows],
            "stars": rows / 10,
            "plot": ["a film"] * 30,
        }
    )


@pytest.fixture
def load(frame, tmp_path, tokenizer):
    """Writes the table, changed as wanted, and reads it."""

    def load(changes=None, **arguments):
        path = tmp_path / "t.csv"
        frame.assign(**changes or {}).to_csv(path, index=False)
        return text(str(path), **{"tokenizer": tokenizer, "max_length": None, **arguments})

    return load


def rows_of(examples):
    ids, mask = examples.inputs.padded()[:, :2].swapaxes(0, 1)
    return [row[real == 1].tolist() for row, real in zip(ids, mask, strict=True)]


def test_texts_become_token_ids_and_labels_classes(load, tmp_path):
    data = load()
    assert (data.task.name, data.outputs, data.labels) == ("classification", 2, ("fresh", "rotten"))
    assert (np.bincount(data.train.targets).tolist(), np.bincount(data.test.targets).tolist()) == ([16, 8], [4, 2])
    for part in (data.train, data.test):
        for row, label in zip(rows_of(part), part.targets, strict=True):
            assert row[:5] == [2, 5, 6, 7, (8, 9)[label]]  # [CLS] the film is good or bad
            assert row[5:] in ([3], [11, 8, 3])
    assert data.train.inputs.types is None


@pytest.mark.parametrize("suffix", [".csv.bz2", ".jsonl", ".jsonl.gz", ".parquet", ".tsv"])
def test_formats_are_read_alike(frame, load, tmp_path, tokenizer, suffix):
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif "jsonl" in suffix:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    expected, found = load(), text(str(path), tokenizer=tokenizer, max_length=None)
    assert rows_of(found.train) == rows_of(expected.train)
    assert np.array_equal(found.train.targets, expected.train.targets)


def test_pairs_have_token_types(load):
    data = load(text=["text", "plot"])
    tokens = data.train.inputs
    ids, _, types = tokens.padded()[0]
    end = int((ids == 3).argmax())
    assert ids[end:].tolist()[:4] == [3, 10, 6, 3] and types.sum() == 3 and types[: end + 1].sum() == 0


def test_scores_make_a_regression(load):
    data = load(target="stars", task="regression", metrics=["pearson"])
    assert data.train.targets.shape == (24, 1) and data.train.targets.dtype == np.float32
    assert (data.outputs, data.metrics) == (1, ("pearson",))


def test_a_language_model_has_no_targets_and_learns_to_stop(load):
    data = load(task="causal_lm", tokenizer="bytes", max_length=64)
    assert data.train.targets is None and data.outputs == 259
    assert all(row[-1] == 1 and 1 not in row[:-1] for row in rows_of(data.train))  # one end of text
    cut = load(task="causal_lm", tokenizer="bytes", max_length=8)
    assert all(len(row) == 8 and row[-1] == 1 for row in rows_of(cut.train))


def test_held_out_films_are_of_no_client(load):
    data = load(group="film", split_groups=True, test_fraction=0.3)
    films = [set(part.groups.tolist()) for part in (data.train, data.test)]
    assert [len(f) for f in films] == [7, 3] and not films[0] & films[1]
    for group in range(10):  # whole films
        assert np.count_nonzero(np.concatenate([data.train.groups, data.test.groups]) == group) == 3


def test_validation_is_made_of_whole_films_too(load):
    whole = load(group="film", split_groups=True)
    tuning = hold_out(whole, 0.25)
    films = [set(part.groups.tolist()) for part in (tuning.train, tuning.test, whole.test)]
    assert [len(f) for f in films] == [6, 2, 2] and not films[0] & films[1]
    assert films[0] | films[1] == set(whole.train.groups.tolist())


def test_a_partys_share_has_all_its_rows_and_everyones_labels(frame, tmp_path, tokenizer):
    spec = {"_target_": "fedrac.data.text.text", "path": None, "tokenizer": tokenizer, "max_length": None}
    (tmp_path / "both").mkdir()
    frame[:6].to_csv(tmp_path / "both" / "train.csv", index=False)
    frame[6:9].to_csv(tmp_path / "both" / "test.csv", index=False)
    (tmp_path / "tests").mkdir()
    frame[:3].to_csv(tmp_path / "tests" / "test.csv", index=False)
    fresh = frame[frame.label == "fresh"]
    fresh.to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(ValueError, match=r"number their labels alike: set data\.classes"):
        own.load(spec, str(tmp_path / "one.csv"))
    spec["classes"] = ["rotten", "fresh"]
    sizes = {"both": (6, 3), "tests": (0, 3), "one.csv": (len(fresh), 0)}
    for place, size in sizes.items():
        data = own.load(spec, str(tmp_path / place))
        assert (len(data.train), len(data.test), data.outputs) == (*size, 2)
        for row, label in zip(rows_of(data.train), data.train.targets, strict=True):
            assert row[4] == (9, 8)[label]  # bad, good


def test_rows_of_other_classes_are_left_out(load):
    labels = ["rotten", "fresh", "plot"] * 10
    data = load({"label": labels, "text": ["bad", "good", ""] * 10}, classes=["rotten", "fresh"])
    assert data.labels == ("rotten", "fresh") and len(data.train) + len(data.test) == 20
    assert {(row[1], label) for row, label in zip(rows_of(data.train), data.train.targets, strict=True)} == {
        (9, 0),
        (8, 1),
    }


def test_long_texts_are_cut_and_counted(load, caplog):
    with caplog.at_level(logging.WARNING):
        data = load(max_length=7)
    assert data.train.inputs.lengths.max() == 7 and {row[-1] for row in rows_of(data.train)} == {3}
    assert "15 of 30 texts are longer than data.max_length=7 tokens (the longest, number 2, has 8)" in caplog.text


def test_what_was_cut_is_refused_though_it_is_in_the_cache(load):
    load(max_length=7)
    with pytest.raises(ValueError, match=r"15 of 30 texts are longer .* set data\.too_long=truncate"):
        load(max_length=7, too_long="refuse")
    assert load(max_length=8, too_long="refuse").train.inputs.lengths.max() == 8


def test_another_tokenizer_in_the_same_folder_is_another_entry(load, tokenizer, tmp_path):
    import shutil

    copy = shutil.copytree(tokenizer, tmp_path / "copy")
    before = load(tokenizer=str(copy))
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text().replace('"good"', '"fine"'))
    after = load(tokenizer=str(copy))
    assert before.key != after.key and 8 not in after.train.inputs.ids and 8 in before.train.inputs.ids


GONE = ["", *["good"] * 29]
BAD = {
    "no file": ({}, {"path": "/nowhere.csv"}, FileNotFoundError, r"no file /nowhere\.csv: set data\.path"),
    "empty": ({"text": GONE}, {}, ValueError, "column 'text' of .*t.csv, data row 1, holds .*, no text: fill the cell"),
    "blank": ({"text": ["  ", *GONE[1:]]}, {}, ValueError, "data row 1, holds '  ', no text"),
    "label gap": ({"label": [None, *["x"] * 29]}, {}, ValueError, "column 'label' .* row 1, holds nan, nothing"),
    "column": ({}, {"text": "txt"}, ValueError, "no column 'txt' in .*: did you mean 'text'"),
    "target": ({}, {"target": None}, ValueError, r"data\.target=null: a classification needs the column"),
    "score": ({}, {"target": "label", "task": "regression"}, ValueError, "row 1, holds 'rotten', no number"),
    "task": ({}, {"task": "ranking"}, ValueError, r"data\.task=ranking is unknown"),
    "texts": ({}, {"text": ["text", "plot", "film"]}, ValueError, "name one column, or two"),
    "metric": ({}, {"metrics": ["pearson"]}, ValueError, "'pearson' is no metric of a classification"),
    "length": ({}, {"max_length": 17}, ValueError, r"data\.max_length=17, but the model of .* reads 16: lower it"),
    "no limit": ({}, {"tokenizer": "bytes"}, ValueError, "the tokenizer bytes knows no limit: set it"),
    "too_long": ({}, {"too_long": "cut"}, ValueError, "'cut' is unknown: choose truncate or refuse"),
    "no tokenizer": ({}, {"tokenizer": None}, ValueError, r"data\.tokenizer=None: set it to a checkpoint's name"),
    "no groups": ({}, {"split_groups": True}, ValueError, r"split_groups=true needs groups: set data\.group"),
    "both": ({}, {"hub_name": "stanfordnlp/imdb"}, ValueError, "set one of them"),
}


@pytest.mark.parametrize("changes, arguments, error, message", BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_before_any_training(frame, tmp_path, tokenizer, changes, arguments, error, message):
    path = tmp_path / "t.csv"
    frame.assign(**changes).to_csv(path, index=False)
    with pytest.raises(error, match=message):
        text(**{"path": str(path), "tokenizer": tokenizer, "max_length": None, **arguments})


def test_rows_are_counted_as_in_the_file_also_where_some_are_left_out(load):
    texts = ["good", "", "good", ""] + ["good"] * 26  # row 2 is left out with its class, row 4 is not
    labels = ["fresh", "plot"] + ["fresh"] * 28
    with pytest.raises(ValueError, match="data row 4, holds"):
        load({"text": texts, "label": labels}, classes=["fresh"])


def test_labels_that_training_lacks_are_refused(frame, tmp_path, tokenizer):
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    frame.to_csv(paths[0], index=False)
    frame[:2].assign(label=["fresh", "stale"]).to_csv(paths[1], index=False)
    with pytest.raises(ValueError, match=r"b\.csv, data row 2, holds 'stale', a label that no training row has"):
        text(str(paths[0]), test_path=str(paths[1]), tokenizer=tokenizer, max_length=None)


@pytest.mark.filterwarnings("ignore")
def test_without_a_hub_the_way_out_is_named(no_hub, tokenizer):
    with pytest.raises(ConnectionError, match=r"stanfordnlp/imdb could not be loaded .* data=text data\.path=PATH"):
        text(hub_name="stanfordnlp/imdb", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"data\.tokenizer=no/such: no tokenizer could be loaded .* give a folder"):
        Tokenizer("no/such").encode(["a"])


def test_a_data_set_of_the_hub(monkeypatch, tokenizer):
    """Its named classes become labels; a label of -1 is none of them."""
    import datasets

    names = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})

    def split(labels):
        return datasets.Dataset.from_dict({"text": ["good film"] * len(labels), "label": labels}, features)

    splits = datasets.DatasetDict({"train": split([1, 0, 1]), "validation": split([0, 1]), "test": split([-1, -1])})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    data = text(hub_name="some/reviews", test_split="validation", tokenizer=tokenizer, max_length=None)
    assert (data.labels, data.train.targets.tolist(), data.test.targets.tolist()) == (("neg", "pos"), [1, 0, 1], [0, 1])
    with pytest.raises(ValueError, match=r"some/reviews/test, data row 1, holds '\(no label\)'"):
        text(hub_name="some/reviews", test_split="test", tokenizer=tokenizer, max_length=None)
    with pytest.raises(ValueError, match="no split 'dev', only test, train, validation"):
        text(hub_name="some/reviews", test_split="dev", tokenizer=tokenizer, max_length=None)
