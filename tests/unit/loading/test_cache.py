import os
import threading
from pathlib import Path

import numpy as np
import pytest

from fedrac.loading import cache


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRAC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Build:
    """Counts how often it is called; its arrays have the shapes and names that cause trouble."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {
            "layer/0.weight": np.arange(300_000, dtype=np.float32).reshape(3, -1).T,  # 19 blocks, not C-ordered
            "one": np.array(7),
            "none": np.zeros((0, 3)),
        }


def same(arrays):
    expected = Build()()
    return list(arrays) == list(expected) and all(np.array_equal(arrays[name], expected[name]) for name in arrays)


def test_the_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv("FEDRAC_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache.root() == Path("/a")
    monkeypatch.delenv("FEDRAC_CACHE")
    assert cache.root() == Path("/b/fedrac")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache.root() == Path("/home/me/.cache/fedrac")


def test_arrays_are_built_once_and_mapped_read_only(root):
    build = Build()
    first, second = cache.arrays("k", build), cache.arrays("k", build)
    assert build.calls == 1 and same(first) and same(second)
    for arrays in (first, second):
        assert arrays["layer/0.weight"].flags.c_contiguous and not arrays["layer/0.weight"].flags.writeable
    assert [path.name for path in root.iterdir()] == ["k"]


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda entry: truncate(entry / "0.npy"),
    "header": lambda entry: flip(entry / "0.npy", 20),
    "middle": lambda entry: flip(entry / "0.npy", 600_000),
    "last byte": lambda entry: flip(entry / "0.npy", -1),
    "array gone": lambda entry: (entry / "1.npy").unlink(),
    "manifest gone": lambda entry: (entry / "manifest.json").unlink(),
    "manifest cut": lambda entry: truncate(entry / "manifest.json"),
    "manifest of another kind": lambda entry: (entry / "manifest.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_built_again(root, damage):
    build = Build()
    cache.arrays("k", build)
    damage(root / "k")
    assert same(cache.arrays("k", build)) and build.calls == 2
    assert same(cache.arrays("k", build)) and build.calls == 2


def test_large_files_are_checked_in_bounded_time(root, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(2**23))
    whole = cache._crc(path)
    flip(path, 0)
    first = cache._crc(path)
    flip(path, 0)
    flip(path, -1)
    assert len({whole, first, cache._crc(path)}) == 3


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_race_all_succeed(root, damaged):
    if damaged:
        cache.arrays("k", Build())
        truncate(root / "k" / "0.npy")
    barrier, results = threading.Barrier(4), []

    def build():
        barrier.wait()  # all have seen that the entry is missing
        return Build()()

    threads = [threading.Thread(target=lambda: results.append(cache.arrays("k", build))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(map(same, results))
    assert [path.name for path in root.iterdir()] == ["k"]


def test_a_build_that_fails_leaves_nothing(root):
    def build():
        raise ValueError("no such class")

    with pytest.raises(ValueError, match="no such class"):
        cache.arrays("k", build)
    with pytest.raises(ValueError, match="Object arrays"):
        cache.arrays("k", lambda: {"x": np.array([object()])})
    assert not root.exists() or list(root.iterdir()) == []


def test_a_folder_that_cannot_be_written_names_the_mend(root):
    root.write_text("a file is in the way")
    with pytest.raises(OSError, match=f"{root} cannot be written .*set FEDRAC_CACHE"):
        cache.arrays("k", Build())


def test_a_full_disk_is_called_so(root, monkeypatch):
    """NumPy's error for it, which this is, does not say so."""

    def save(*_, **__):
        raise OSError("532336 requested and 14304 written")

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(OSError, match=rf"{root} cannot be written \(No space left on device\): set FEDRAC_CACHE"):
        cache.arrays("k", Build())


def test_keys_follow_all_that_decides_the_arrays(tmp_path):
    file = tmp_path / "x"
    file.write_text("a")
    key = cache.key("loader", {"a": 1, "b": [1, 2]}, [file])
    assert key == cache.key("loader", {"b": (1, 2), "a": 1}, [tmp_path / "." / "x"])
    others = {cache.key("other", {"a": 1, "b": [1, 2]}, [file]), cache.key("loader", {"a": 1, "b": [2, 1]}, [file])}
    others.add(cache.key("loader", {"a": 1, "b": [1, 2]}))
    os.utime(file, ns=(1, 1))
    others.add(cache.key("loader", {"a": 1, "b": [1, 2]}, [file]))
    file.write_text("ab")
    os.utime(file, ns=(1, 1))
    others.add(cache.key("loader", {"a": 1, "b": [1, 2]}, [file]))
    assert len(others | {key}) == 6
    with pytest.raises(FileNotFoundError):
        cache.key("loader", {}, [tmp_path / "y"])
