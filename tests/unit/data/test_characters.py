"""A text file in pieces of characters."""

import numpy as np
import pytest

from fedrac.data.characters import characters

TEXT = "to be, or not to be: that is the question."


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRAC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def written(part, labels) -> str:
    return "".join(labels[i] for i in part.inputs.ids)


def test_the_pieces_are_the_text(file):
    data = characters(str(file), length=8, test_fraction=0.34)
    assert data.task.name == "causal_lm" and data.train.targets is None and data.outputs == len(data.labels)
    assert data.train.inputs.lengths.tolist() == [8, 8, 8, 8] and data.test.inputs.lengths.tolist() == [8, 2]
    assert written(data.train, data.labels) == TEXT[:32]
    assert written(data.test, data.labels) == "".join(c if c in TEXT[:32] else "\ufffd" for c in TEXT[32:])
    assert data.labels[1:] == tuple(sorted(set(TEXT[:32])))


def test_an_alphabet_a_test_file_and_groups(file, tmp_path):
    (tmp_path / "test.txt").write_text("be to")
    data = characters(str(file), length=8, test_path=str(tmp_path / "test.txt"), alphabet="eb", groups=3)
    assert data.outputs == 3 and data.test.inputs.ids.tolist() == [2, 1, 0, 0, 0]
    assert data.train.groups.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_single_character_at_the_end_is_left_out(file):
    file.write_text("abcdefghi")
    data = characters(str(file), length=4, test_fraction=0.5)
    assert data.train.inputs.lengths.tolist() == [4] and np.diff(data.test.inputs.offsets).tolist() == [4]


@pytest.mark.parametrize("change, message", [
    ({"path": None}, "data.path is not set"),
    ({"length": 1}, "data.length=1: a piece needs"),
    ({"length": 50}, "has 42 characters, not two pieces of data.length=50"),
    ({"test_fraction": 0.0}, "data.test_fraction=0.0 must lie"),
    ({"length": 8, "groups": 9}, "data.groups=9: the training part has 5 pieces"),
])  # fmt: skip
def test_what_is_wrong_is_named(file, change, message):
    with pytest.raises(ValueError, match=message):
        characters(**{"path": str(file), **change})
    with pytest.raises(FileNotFoundError, match="there is no file /nowhere"):
        characters("/nowhere")
