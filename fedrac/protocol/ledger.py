"""What a node has done for each run, and what its noise has cost: kept across restarts, in its folder."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context

from fedrac.aggregation import privacy
from fedrac.algorithm.state import Spent
from fedrac.loading.limits import Refused
from fedrac.loading.told import told
from fedrac.protocol.policy import Policy

log = logging.getLogger(__name__)

_NAME = "ledger"
_RUNS = 100  # that are remembered: who can start more than that need not go on with an old one


@dataclass(frozen=True)
class Ledger:
    """One node's.

    Attributes:
        file: where it is kept. What Flower keeps of a run in the ``Context`` counts, too, if it is more: a SuperNode
            that starts again forgets that, and a full disk does not take the file.
        context: of the run.
    """

    file: Path
    context: Context

    def count(self, kind: str, most: int) -> int:
        """Counts one of this run's ``messages`` or ``rounds``, and returns how many there are now.

        Raises:
            Refused: there were ``most`` already.
        """
        kept = self._read()
        runs, run = kept.setdefault("runs", {}), f"{self.context.run_id:x}"
        record = self.context.state.config_records.setdefault(_NAME, ConfigRecord())
        number = max(int(runs.get(run, {}).get(kind, 0)), int(record.get(kind, 0))) + 1  # type: ignore[arg-type]
        if number > most:
            raise Refused(f"the run has had its {most} {kind}", f"most_{kind}")
        record[kind] = number
        runs.setdefault(run, {})[kind] = number
        self._try_to_write(kept)
        return number

    def pin(self, workload: str, kind: str = "workload") -> None:
        """Makes sure that a run keeps to one description: by asking for many, a server could read out a column.

        Args:
            workload: the run's, as JSON; or the part of it that ``kind`` names.
            kind: what is pinned.

        Raises:
            ValueError: it had another one.
        """
        digest = hashlib.sha256(workload.encode()).hexdigest()
        record = self.context.state.config_records.setdefault(_NAME, ConfigRecord())
        kept = self._read()
        run = kept.setdefault("runs", {}).setdefault(f"{self.context.run_id:x}", {})
        for first in (record.get(kind), run.get(kind)):
            if first not in (None, digest):
                raise told(ValueError("the run described its data, model or partition otherwise before"))
        record[kind] = digest
        if run.get(kind) is None:
            run[kind] = digest
            self._try_to_write(kept)

    def spend(self, policy: Policy) -> float:
        """Counts one noisy update, over all runs, before it is made.

        Returns:
            The epsilon of all of them: what anybody learns by them of which data the client has.

        Raises:
            Refused: it would be more than ``most_epsilon``.
            ValueError: the account cannot be kept; without it there is no update.
        """
        kept = self._read()
        spent = tuple(Spent(**part) for part in kept.get("spent", ()))
        spent = privacy.spend(spent, 1, 1, [policy.noise / 2])  # a bounded update moves by up to two bounds
        cost = privacy.epsilon(spent, policy.delta, sum(part.rounds for part in spent))
        if policy.most_epsilon is not None and cost > policy.most_epsilon:
            raise Refused("the node has spent its privacy", "most_epsilon")
        try:
            self._write({**kept, "spent": [vars(part) for part in spent]})
        except OSError as error:
            raise told(ValueError(f"{self.file}: {error}"), "the node cannot keep account of its noise") from error
        return cost

    def _read(self) -> dict[str, Any]:
        """Empty if there is none yet.

        Raises:
            ValueError: it is damaged; whoever owns the node must say what was spent.
        """
        try:
            found: dict[str, Any] = json.loads(self.file.read_text())
            return found
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError as error:
            wrong = f"{self.file} is damaged: restore it, or remove it and all that it counted"
            raise told(ValueError(wrong), "the node's ledger is damaged") from error

    def _try_to_write(self, kept: Mapping[str, Any]) -> None:
        try:
            self._write(kept)
        except OSError as error:  # Flower keeps it, until the SuperNode starts again
            log.warning("what the run has had is not kept in %s: %s", self.file, error)

    def _write(self, kept: Mapping[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        runs = list(kept.get("runs", {}).items())[-_RUNS:]
        part.write_text(json.dumps({**kept, "runs": dict(runs)}))
        part.replace(self.file)
