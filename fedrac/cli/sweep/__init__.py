"""Many runs: every combination of some values, in processes side by side, gone on with after an interruption."""

from collections.abc import Sequence
from pathlib import Path

from fedrac.cli.commands.report import show
from fedrac.cli.sweep.cells import Status, prepare
from fedrac.cli.sweep.pool import run_all
from fedrac.cli.sweep.progress import SweepProgress
from fedrac.loading.machine import cores
from fedrac.results.lock import locked


def main(overrides: Sequence[str]) -> int:
    """Runs the sweep of ``fedrac -m KEY=V1,V2 ...``; returns the exit code, 1 if a cell failed.

    Raises:
        ConfigError: a cell's settings are wrong, or its folder holds another run; no cell has been started then.
        BlockingIOError: another process runs the same sweep.
    """
    spec, cells = prepare(overrides)
    assert spec.dir is not None
    folder = Path(spec.dir).absolute()
    with locked(folder, "runs this sweep"):
        todo = [cell for cell in cells if cell.status is not Status.FINISHED]
        jobs = min(spec.jobs or cores(), len(cells))  # however many are left: a run has as many threads the second time
        progress = SweepProgress(cells, folder, min(jobs, len(todo)))
        try:
            run_all(todo, jobs, progress)
        except KeyboardInterrupt:
            progress.stopped()
            return 130
        failed = progress.end()
        if len(failed) < len(cells):
            show(folder, folder / "report")
    return 1 if failed else 0
