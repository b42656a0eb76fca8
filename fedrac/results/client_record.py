"""What the model was worth to each client: ``clients.parquet``, a folder with one file for every round that was tested.

Parquet's readers take such a folder for one table. A file is written whole before its round's line in
``metrics.jsonl``, so a run that is killed loses nothing, and one that goes on drops what it does again.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.protocol.client_evaluation import ClientMetrics, spread

NAME = "clients.parquet"
KEYS = ("round", "client", "examples")  # the columns besides those of the metrics

Columns = Mapping[str, NDArray[Any]]  # by name, (rows,): a row for each client and tested round

_PART = re.compile(r"round-(\d+)\.parquet")
_BINS = 10


def columns_of(tested: ClientMetrics) -> Columns:
    """``round``, ``client`` and ``examples`` (int64), and every metric (float64)."""
    rounds, examples = np.full(len(tested.clients), tested.round), np.rint(tested.examples).astype(np.int64)
    return {"round": rounds, "client": tested.clients, "examples": examples, **tested.metrics}


def part(tested: ClientMetrics) -> tuple[str, bytes]:
    """Name, seen from a run's ``output_dir``, and content of the file of one round."""
    import pyarrow
    import pyarrow.parquet

    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns_of(tested))), content)
    return f"{NAME}/round-{tested.round:08d}.parquet", content.getvalue()


def keep_until(folder: Path, round_: int) -> None:
    """Drops later rounds, and what a killed process left unfinished."""
    for path in (folder / NAME).glob("*"):
        found = _PART.fullmatch(path.name)
        if found is None or int(found[1]) > round_:
            path.unlink()


def read(folder: Path, last: bool = False) -> Columns | None:
    """All rows, or those of the last tested round, in order of round and client; None: there are none.

    A metric that a round does not have is nan there.
    """
    paths = sorted(path for path in (folder / NAME).glob("round-*.parquet") if _PART.fullmatch(path.name))
    if not paths:
        return None
    import pyarrow
    import pyarrow.parquet

    parts = [pyarrow.parquet.ParquetFile(path).read() for path in (paths[-1:] if last else paths)]
    table = pyarrow.concat_tables(parts, promote_options="default")
    return {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of several rounds, one after another; every part has the columns of the first."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def distribution(columns: Columns) -> dict[str, Any]:
    """How far the clients of one round lie apart: by metric their spread and a histogram of ten equal bins.

    The bins of an accuracy go from 0 to 1, those of other metrics from the least to the largest client.
    """
    found: dict[str, Any] = {"round": int(columns["round"][0]), "clients": len(columns["client"])}
    for name, values in columns.items():
        if name not in KEYS and np.isfinite(values).all():
            counts, edges = np.histogram(values, _BINS, (0.0, 1.0) if name.endswith("accuracy") else None)
            found[name] = {**spread(name, values), "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}
    return found
