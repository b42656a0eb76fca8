"""How long a person waits for the first round of the default run."""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.driver import environment


def first_round() -> float:
    """Seconds from the ``fedrac`` command to the first line of its ``metrics.jsonl``; the run is then ended."""
    script = Path(sys.executable).with_name("fedrac")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "fedrac"]
    with TemporaryDirectory() as folder:
        out = Path(folder, "out")
        begin = time.monotonic()
        with subprocess.Popen([*command, f"output_dir={out}"], env=environment(), stdout=subprocess.DEVNULL) as process:
            while not _has_line(out / "metrics.jsonl"):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended before its first round")
                time.sleep(0.005)
            seconds = time.monotonic() - begin
            process.terminate()
    return seconds


def _has_line(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
