"""What all tests share."""

import os
from collections.abc import Iterator

import pytest

# Before torch is imported, and for the processes that tests start: threads of several processes on few cores wait
# for one another most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what loaders and partitions cache in a folder of this test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
