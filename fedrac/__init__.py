"""fedrac: federated fine-tuning by randomized asymmetric chains of low-rank adaptation (arXiv 2410.08305), on Flower.

The names below are all that a Python program needs; each is imported when it is first used, so that ``import fedrac``
takes no time. The packages beside this file say in their own docstrings what lives in them.

- `fit` trains a live model on live data.
- `run` makes a run as the command ``fedrac`` does, `load` reads one from its folder, `table` reads many.
- `Run` is what these return; `FedRacLora` is the strategy for a Flower ServerApp of one's own.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrac.api.fit import fit
    from fedrac.api.runs import Run, load, run
    from fedrac.api.table import table
    from fedrac.flower.strategy import FedRacLora

    __version__: str

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
