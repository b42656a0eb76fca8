"""A folder belongs to one process at a time, and to nobody once that has gone."""

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from fedrac.results.lock import locked


def hold(folder: str, held: Event, end: Event) -> None:
    with locked(Path(folder), "runs there"):
        held.set()
        end.wait(60)


def test_another_process_is_kept_out_until_this_one_ends(tmp_path: Path) -> None:
    """However it ends, a SIGKILL included; what lies there can be read all the time."""
    context = multiprocessing.get_context("spawn")
    held, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(tmp_path / "run"), held, end))
    process.start()
    assert held.wait(60)
    (tmp_path / "run" / "file").write_text("it")
    said = pytest.raises(BlockingIOError, match="run is in use: another process runs there")
    with said, locked(tmp_path / "run", "runs there"):
        pytest.fail("two at a time")
    assert (tmp_path / "run" / "file").read_text() == "it"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(tmp_path / "run", "runs there"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_where_nothing_was_written_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "a" / "b", "runs there"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "a" / "b", "runs there"):
        (tmp_path / "a" / "c").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c"]
