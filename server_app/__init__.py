"""The Flower ServerApp: composes the configuration and runs the experiment over Flower's grid."""

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """``preset`` names an experiment of ``conf/experiment``; ``overrides`` are those of the ``fedrac`` command."""
    from fedrac.monitoring.errors import OneLine, RunFailed, told
    from fedrac.monitoring.progress import show_log

    show_log()
    logging.getLogger("flwr").addFilter(OneLine())
    try:
        _run(grid, context)
    except Exception as error:
        raise RunFailed(told(error)) from None


def _run(grid: Grid, context: Context) -> None:
    from fedrac.experiment import compose, run
    from fedrac.flower import operator
    from fedrac.flower.prompt_grid import PromptGrid
    from fedrac.loading import limits

    overrides = compose.split_overrides(str(context.run_config["overrides"]))
    resumed = any(override.startswith("resume=") for override in overrides)  # it keeps what it began with
    if (preset := context.run_config["preset"]) and not resumed:
        overrides.insert(0, f"experiment={preset}")
    settings = compose.load(overrides)
    with limits.within(operator.server_limits(grid)):  # settings are those of whoever called `flwr run`
        run.run(settings, PromptGrid(grid), Path(settings.output_dir).absolute())
