"""What this process may use of the machine, which is not always all that the machine has."""

import math
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: its affinity, and the whole cores of the smallest quota of its cgroups.

    A core that does two things at a time counts twice.

    Args:
        root: of the file system that has ``proc`` and ``sys``.
    """
    return max(1, int(min(len(_affinity()), _least(root, "cpu"))))


def whole_cores(root: Path = Path("/")) -> int:
    """The same, where one that does two things at a time counts once: it computes no more than one thing's worth."""
    return min(cores(root), len({_siblings(root, cpu) for cpu in _affinity()}))


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


@cache  # asked for in every round
def _siblings(root: Path, cpu: int) -> str:
    """The names of all that are the same core as one of the system's; its own where that is not known."""
    try:
        return (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def memory(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the machine's, or the smallest limit of its cgroups; not what is free of them.

    Args:
        root: of the file system that has ``proc`` and ``sys``.
    """
    all_of_it = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**33
    return int(min(all_of_it, _least(root, "memory")))


@cache  # asked for in every round
def _least(root: Path, controller: str) -> float:
    """The smallest limit; infinite: there is none."""
    return min(_limits(root, controller), default=math.inf)


def _limits(root: Path, controller: str) -> Iterator[float]:
    """Each limit of the process's own cgroups and of those that they lie in, version 2 and version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controller if controllers else root / "sys/fs/cgroup"
        limit, own = _LIMITS[controller, 1 if controllers else 2], top / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(top) and (found := limit(folder)) is not None:
                yield found


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return None if quota < 0 else quota / period


def _bytes(file: str, folder: Path) -> float | None:
    try:
        return float((folder / file).read_text())
    except (OSError, ValueError):  # there is none, or it says max
        return None


# By controller and version of cgroups: the limit that a folder sets, if any.
_LIMITS: dict[tuple[str, int], Callable[[Path], float | None]] = {
    ("cpu", 1): _quota_v1,
    ("cpu", 2): _quota_v2,
    ("memory", 1): partial(_bytes, "memory.limit_in_bytes"),
    ("memory", 2): partial(_bytes, "memory.max"),
}
