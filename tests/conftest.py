"""What all tests share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what loaders and partitions cache in a folder of this test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
