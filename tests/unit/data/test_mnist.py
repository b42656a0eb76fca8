import gzip

import numpy as np
import pytest

from fedrac.data import mnist

DIGITS = [5, 6, 7, 8, 9]


def pixels(examples):
    return np.rint((examples.inputs * mnist.STD + mnist.MEAN) * 255).astype(int)


def test_embedded_digits_are_split_and_numbered():
    data = mnist.embedded(DIGITS)
    assert data.train.inputs.shape == (2000, 1, 28, 28) and data.test.inputs.shape == (500, 1, 28, 28)
    assert data.train.inputs.dtype == np.float32 and data.task.name == "classification" and data.outputs == 5
    assert np.bincount(data.train.targets).tolist() == [400] * 5
    assert np.bincount(data.test.targets).tolist() == [100] * 5
    assert abs(data.train.inputs.mean()) < 0.05 and abs(data.train.inputs.std() - 1) < 0.05
    assert pixels(data.test).min() == 0 and pixels(data.test).max() == 255


def test_the_split_of_a_class_does_not_depend_on_the_others():
    some, every = mnist.embedded([9, 0]), mnist.embedded()
    assert len(every.train) == 4000 and every.outputs == 10
    for number, digit in enumerate([9, 0]):
        for part in ("train", "test"):
            mine, theirs = getattr(some, part), getattr(every, part)
            kept, expected = mine.inputs[mine.targets == number], theirs.inputs[theirs.targets == digit]
            assert np.array_equal(kept, expected)


def test_train_and_test_share_no_image():
    data = mnist.embedded()
    images = [image.tobytes() for part in (data.train, data.test) for image in part.inputs]
    assert len(set(images)) == len(images) == 5000


def test_the_split_seed_names_the_split():
    first, again, other = (mnist.embedded([1], split_seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.test.inputs, again.test.inputs) and first.key == again.key
    assert not np.array_equal(first.test.inputs, other.test.inputs) and first.key != other.key


@pytest.mark.parametrize("classes", [[5, 10], [5, 5], []])
def test_classes_must_exist_and_differ(classes):
    with pytest.raises(ValueError, match=r"data\.classes=.*choose different ones of \[0, 1, 2"):
        mnist.embedded(classes)


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_the_fraction_is_checked(fraction):
    with pytest.raises(ValueError, match=f"data.test_fraction={fraction} is not between 0 and 1"):
        mnist.embedded([1, 2], test_fraction=fraction)


def test_the_deviation_is_checked():
    with pytest.raises(ValueError, match=r"data\.std=0 is not positive"):
        mnist.embedded([1, 2], std=0)


def write(folder, name, array):
    data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


LAYOUTS = {
    "gzipped": ("-idx{}-ubyte.gz"),
    "plain": ("-idx{}-ubyte"),
    "dotted": (".idx{}-ubyte"),
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def folder(request, tmp_path):
    """Six training and two test images of 2 x 3 pixels, classes 0, 1 and 2."""
    images = np.arange(8 * 6).reshape(8, 2, 3)
    labels = np.array([2, 1, 0, 2, 1, 0, 2, 0])
    for stem, part in (("train", slice(6)), ("t10k", slice(6, 8))):
        write(tmp_path, f"{stem}-images" + request.param.format(3), images[part])
        write(tmp_path, f"{stem}-labels" + request.param.format(1), labels[part])
    return tmp_path


def test_idx_files_are_read(folder):
    data = mnist.idx(str(folder), classes=[2, 0], mean=0.0, std=1.0)
    assert data.train.inputs.shape == (4, 1, 2, 3) and data.outputs == 2
    assert data.train.targets.tolist() == [0, 1, 0, 1] and data.test.targets.tolist() == [0, 1]
    assert np.allclose(data.train.inputs[1].ravel() * 255, np.arange(12, 18))
    assert mnist.idx(str(folder)).outputs == 3


def test_changed_files_are_read_again(folder):
    before = mnist.idx(str(folder))
    labels = next(folder.glob("t10k-labels*"))
    write(folder, labels.name, np.array([1, 1]))
    after = mnist.idx(str(folder))
    assert before.key != after.key and after.test.targets.tolist() == [1, 1]


def test_missing_files_name_the_mend(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path is not set.*data\.path=/data/mnist"):
        mnist.idx()
    missing = tmp_path / "none"
    with pytest.raises(FileNotFoundError, match=f"no folder {missing}: set data.path .*train-images-idx3-ubyte"):
        mnist.idx(str(missing))
    with pytest.raises(FileNotFoundError, match=r"has no train-images: looked for .*train-images\.idx3-ubyte\.gz"):
        mnist.idx(str(tmp_path))


DAMAGES = {
    "cut gzip": (lambda raw: gzip.compress(raw)[:-9], "is damaged"),
    "no gzip": (lambda raw: raw, "is damaged"),
    "not IDX": (lambda raw: gzip.compress(b"hello"), "begins with 68 65 6c 6c"),
    "empty": (lambda raw: gzip.compress(b""), "begins with nothing"),
    "short": (lambda raw: gzip.compress(raw[:-1]), r"header says \[6, 2, 3\]"),
    "labels": (lambda raw: gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 1, 7])), r"images of shape \(1,\)"),
}


@pytest.mark.parametrize("damage, message", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("folder", ["-idx{}-ubyte.gz"], indirect=True)
def test_damaged_files_are_named(folder, damage, message):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.decompress(path.read_bytes())))
    with pytest.raises(ValueError, match=message):
        mnist.idx(str(folder))


@pytest.fixture
def hub(monkeypatch):
    """The hub's answer to ``datasets.load_dataset``: six images in two splits."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)

    def split(rows):
        return datasets.Dataset.from_dict({"image": list(images[rows]), "label": [0, 1, 2]}, features=features)

    def load_dataset(name, subset, revision):
        assert (name, subset, revision) == ("someone/images", None, "v1")
        return datasets.DatasetDict({"train": split(slice(3)), "test": split(slice(3, 6))})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_images_come_from_the_hub(hub):
    data = mnist.hub("someone/images", revision="v1", mean=0.0, std=1.0)
    assert data.train.inputs.shape == (3, 1, 2, 2) and data.outputs == 3
    assert np.allclose(data.test.inputs.ravel() * 255, np.arange(12, 24))
    assert data.train.targets.tolist() == [0, 1, 2]


def test_an_unknown_column_is_named(hub):
    with pytest.raises(ValueError, match=r"no column 'digit' among \['image', 'label'\]: set data.image"):
        mnist.hub("someone/images", revision="v1", label="digit")


@pytest.mark.parametrize("error", [ConnectionError("no route"), FileNotFoundError("no such data set")])
def test_no_network_names_the_mend(monkeypatch, error):
    import datasets

    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ConnectionError, match=rf"someone/images .*{error}.* data=idx data\.path=PATH"):
        mnist.hub("someone/images")
