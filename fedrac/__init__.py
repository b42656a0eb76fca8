"""fedrac: federated fine-tuning by randomized asymmetric chains of low-rank adaptation (arXiv 2410.08305), on Flower.

All that a Python program needs::

    import fedrac

    run = fedrac.fit(net, clients=[(x0, y0), (x1, y1)], test=(x, y), rank=4, rounds=50, overrides=["local.lr=1e-2"])
    run.history  # pandas DataFrame, a row a round, round 0 included
    run.summary; run.model  # dict; the torch module with the merged weights
    run = fedrac.run("rounds=20", "cohort.size=20")  # what the command does, without it
    run = fedrac.load("outputs/2026-11-22_18-30-11")  # the same object, of a folder
    frame = fedrac.table("outputs/sweep")  # a row a run: the settings that differ, and the summary
    fedrac.__version__

`Run` is what these return; `FedRacLora` is the strategy for a Flower ServerApp of one's own. Each name is imported when
it is first used, so that ``import fedrac`` takes no time. The packages beside this file say in their own docstrings
what lives in them.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrac.api.fit import fit
    from fedrac.api.runs import Run, load, run
    from fedrac.api.table import table
    from fedrac.flower.strategy import FedRacLora

    __version__: str

# PyTorch's threads wait for one another by spinning, for milliseconds: whatever else computes on the machine then takes
# their time slices, and a round takes up to a hundred times as long. OpenMP reads this when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # of GNU's OpenMP, some microseconds

__all__ = ["FedRacLora", "Run", "__version__", "fit", "load", "run", "table"]

_HOMES = {
    "FedRacLora": "fedrac.flower.strategy",
    "Run": "fedrac.api.runs",
    "__version__": "fedrac.api.version",
    "fit": "fedrac.api.fit",
    "load": "fedrac.api.runs",
    "run": "fedrac.api.runs",
    "table": "fedrac.api.table",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
