import numpy as np
import pandas
import pytest

from fedrac.data.table import table


@pytest.fixture
def frame():
    """40 rows: two features, a label in strings, a value, a hospital."""
    rows = np.arange(40)
    return pandas.DataFrame(
        {
            "age": rows * 2.0,
            "old": rows > 20,
            "kind": np.where(rows % 4 == 0, "spam", "ham"),
            "value": rows / 3,
            "hospital": [f"h{row % 5}" for row in rows],
        }
    )


WRITERS = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".csv.bz2": lambda frame, path: frame.to_csv(path, index=False),
    ".tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    ".parquet": lambda frame, path: frame.to_parquet(path),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_formats_are_read_alike(frame, tmp_path, suffix):
    WRITERS[suffix](frame, path := tmp_path / f"t{suffix}")
    data = table(str(path), "kind", features=["age", "old"], group="hospital")
    assert (data.task.name, data.outputs, data.train.inputs.shape) == ("classification", 2, (32, 2))
    assert np.bincount(data.train.targets).tolist() == [24, 8]  # ham, spam: sorted, and split alike
    assert np.bincount(data.test.targets).tolist() == [6, 2]
    assert sorted(set(data.train.groups)) == [0, 1, 2, 3, 4]
    assert np.allclose(data.train.inputs.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(data.train.inputs.std(axis=0), 1, atol=1e-6)


def write(frame, path):
    frame.to_csv(path, index=False)
    return str(path)


def test_features_are_all_other_columns(frame, tmp_path):
    path = write(frame.drop(columns="kind"), tmp_path / "t.csv")
    data = table(path, "value", "regression", group="hospital", standardize=False)
    rows = data.train.inputs[:, 0] / 2
    assert data.train.inputs.shape == (32, 2) and data.outputs == 1
    assert np.allclose(data.train.targets[:, 0], rows / 3) and np.array_equal(data.train.groups, rows % 5)


def test_a_regression_may_have_several_outputs(frame, tmp_path):
    data = table(write(frame, tmp_path / "t.csv"), ["value", "age"], "regression", features=["old"])
    assert data.train.targets.shape == (32, 2) and data.train.targets.dtype == np.float32


def test_a_table_of_its_own_for_testing(frame, tmp_path):
    paths = [write(frame[:30], tmp_path / "a.csv"), write(frame[30:], tmp_path / "b.csv")]
    data = table(paths[0], "kind", features=["age"], group="hospital", test_path=paths[1])
    assert (len(data.train), len(data.test)) == (30, 10)
    scaled = (frame.age[30:] - frame.age[:30].mean()) / frame.age[:30].std(ddof=0)  # by the training rows
    assert np.allclose(data.test.inputs[:, 0], scaled)
    assert np.array_equal(data.test.groups, np.arange(30, 40) % 5)


def test_a_constant_feature_becomes_zero(frame, tmp_path):
    data = table(write(frame.assign(age=3.0), tmp_path / "t.csv"), "kind", features=["age"])
    assert (data.train.inputs == 0).all()


BAD = {
    "word": ({"age": ["x"]}, {}, "column 'age' of .*t.csv, data row 1, holds 'x', no number: clean the cell"),
    "gap": ({"age": [None]}, {}, "column 'age' .*data row 1, holds nan, no number"),
    "infinite": ({"age": [np.inf]}, {}, "data row 1, holds inf, no number"),
    "label gap": ({"kind": [None]}, {}, "column 'kind' .*data row 1, holds nan, nothing: fill the cell"),
    "group gap": ({"hospital": [None]}, {"group": "hospital"}, "column 'hospital' .*data row 1, holds nan"),
    "no column": ({}, {"features": ["height"]}, "no column 'height' in .*its columns are age, old, kind"),
    "no target": ({}, {"target": "sort"}, "no column 'sort'"),
    "strings": ({}, {"features": None}, "column 'hospital' .*'h0', no number"),
    "two targets": ({}, {"target": ["kind", "old"]}, "a classification has one target column"),
    "task": ({}, {"task": "ranking"}, "data.task=ranking is unknown"),
}


@pytest.mark.parametrize("cells, arguments, message", BAD.values(), ids=BAD)
def test_bad_cells_and_columns_are_named(frame, tmp_path, cells, arguments, message):
    first = pandas.concat([frame[:1].assign(**cells), frame[1:]])
    with pytest.raises(ValueError, match=message):
        table(write(first, tmp_path / "t.csv"), **{"target": "kind", "features": ["age"], **arguments})


def test_rows_of_the_test_table_are_counted_from_its_start(frame, tmp_path):
    paths = [write(frame, tmp_path / "a.csv"), write(frame[:4].assign(kind=list("sham")), tmp_path / "b.csv")]
    with pytest.raises(ValueError, match=r"column 'kind' of .*b.csv, data row 1, holds 's', a label that no train"):
        table(paths[0], "kind", features=["age"], test_path=paths[1])


def test_dates_are_no_numbers(frame, tmp_path):
    path = tmp_path / "t.parquet"
    frame.assign(age=pandas.Timestamp("2020-01-01")).to_parquet(path)
    with pytest.raises(ValueError, match="column 'age' holds dates"):
        table(str(path), "kind", features=["age"])


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path=None data\.target=y: set both"):
        table(target="y")
    with pytest.raises(FileNotFoundError, match=r"no file .*t\.csv: set data\.path"):
        table(str(tmp_path / "t.csv"), "y")
    for name, content, message in (
        ("t.xls", "x", "no known format: use .csv"),
        ("t.parquet", "x", "t.parquet cannot be read"),
        ("e.csv", "", "e.csv cannot be read"),
        ("h.csv", "x,y\n", "h.csv has no rows"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            table(str(tmp_path / name), "y")


@pytest.mark.parametrize("suffix", [".csv", ".csv.bz2", ".tsv"])
def test_two_columns_of_one_name_are_refused(frame, tmp_path, suffix):
    """Also where pandas would give the second one another name."""
    double = frame.rename(columns={"old": "age"})
    WRITERS[suffix](double, path := tmp_path / f"t{suffix}")
    with pytest.raises(ValueError, match="has more than one column 'age': rename or remove the others"):
        table(str(path), "kind", features=["value"])


def test_a_column_without_a_name_is_no_feature(frame, tmp_path, caplog):
    """As pandas writes its index, and a spreadsheet what is behind the last comma."""
    frame.drop(columns="hospital").to_csv(path := tmp_path / "t.csv")
    assert table(str(path), "kind").train.inputs.shape[1] == 3
    assert "column 1 has no name and is left out" in caplog.text
    path.write_text("a,kind,\n1,x,\n2,y,\n3,x,\n4,y,\n5,x,\n6,y,\n7,x,\n8,y,\n9,x,\n10,y,\n")
    assert table(str(path), "kind").train.inputs.shape[1] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": ["age", "age"]}, "data.features names 'age' twice"),
        ({"features": ["age", "kind"]}, "data.features has the target 'kind'"),
        ({"classes": ["ham", "ham"]}, "data.classes names 'ham' twice"),
        ({"classes": ["ham"]}, "must name at least two classes"),
    ],
)
def test_lists_that_contradict_themselves(frame, tmp_path, settings, message):
    frame.to_csv(path := tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=message):
        table(str(path), "kind", **{"features": ["age"], **settings})


def test_one_class_alone_is_refused_and_named_at_a_party(frame, tmp_path, caplog):
    frame.assign(kind="ham").to_csv(path := tmp_path / "train.csv", index=False)
    with pytest.raises(ValueError, match="column 'kind' has the same label in all training rows"):
        table(str(path), "kind", features=["age"])
    party = {"features": ["age"], "standardize": False, "classes": ["ham", "spam"], "partial": True}
    assert len(table(str(path), "kind", **party).train) == 40
    assert "others have to bring the rest" in caplog.text
