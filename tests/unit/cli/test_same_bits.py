"""What the default experiment finds does not depend on hosts, threads and AVX-512, to the last bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedrac.training import products

COMMAND = [sys.executable, "-c", "from fedrac.cli.main import main; main()"]


def weights(folder: Path, environment: dict[str, str], hosts: int = 1) -> bytes:
    """Those of a run in a process of its own."""
    own = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    overrides = ["rounds=15", "evaluate.every=15", f"output_dir={folder}", f"runtime.hosts={hosts}"]
    subprocess.run([*COMMAND, *overrides], env={**own, **environment}, check=True, capture_output=True)
    return (folder / "checkpoint" / "weights.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(products._processor().get("vendor_id") != "AuthenticAMD", reason="it is known of AMD's processors")
def test_the_default_is_the_same_everywhere(tmp_path: Path) -> None:
    one = weights(tmp_path / "one", {"OMP_NUM_THREADS": "1"})
    assert weights(tmp_path / "two", {"OMP_NUM_THREADS": "2"}) == one
    assert weights(tmp_path / "hosts", {"OMP_NUM_THREADS": "1"}, hosts=4) == one
    assert weights(tmp_path / "avx2", {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2"}) == one
