"""What a process may use: by affinity, and by the limits of its cgroups of both versions."""

import os
from pathlib import Path

import pytest

from fedrac.loading import machine


def file_system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        place = root / "sys/fs/cgroup" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def quota(folder: str, quota: str) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 1),
        ("0::/a\n", {"a/cpu.max": "900000 100000\n"}, 4),
        ("4:cpu,cpuacct:/a\n", quota("cpu/a", "300000"), 3),
        ("4:cpu:/host/a\n", quota("cpu", "200000"), 2),
        ("4:cpu:/\n", quota("cpu", "-1"), 4),
        ("4:memory:/\n", quota("cpu", "100000"), 4),
    ],
)
def test_cores_are_those_of_affinity_and_quota(tmp_path, monkeypatch, cgroup, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    assert machine.cores(file_system(tmp_path, cgroup, files)) == expected


def test_a_core_that_does_two_things_is_one_whole_core(tmp_path, monkeypatch):
    """Of four of the system's two are one core, and of the last it is not known."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5}, raising=False)
    for cpu, siblings in {0: "0-1", 1: "0-1", 2: "2,7"}.items():
        place = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{siblings}\n")
    assert (machine.cores(tmp_path), machine.whole_cores(tmp_path)) == (4, 3)
    assert machine.whole_cores(file_system(tmp_path / "quota", "0::/\n", {"cpu.max": "250000 100000\n"})) == 2


MEGABYTE = 2**20
WHOLE = machine.memory(Path("/nowhere"))


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{64 * MEGABYTE}\n"}, 64 * MEGABYTE),
        ("0::/a\n", {"a/memory.max": "max\n"}, WHOLE),
        ("0::/a\n", {"a/memory.max": f"{2 * WHOLE}\n"}, WHOLE),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": f"{32 * MEGABYTE}\n"}, 32 * MEGABYTE),
        ("5:memory:/a\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, WHOLE),
        ("5:cpu:/\n", {"memory/memory.limit_in_bytes": "1\n"}, WHOLE),
    ],
)
def test_memory_is_the_machines_or_the_smallest_limit(tmp_path, cgroup, files, expected):
    assert machine.memory(file_system(tmp_path, cgroup, files)) == expected
