"""When a run writes checkpoints, and which of them is the best."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrac.algorithm.state import ServerState
from fedrac.data.metrics import is_lower_better
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.replay import FinishedRound
from fedrac.protocol.round_report import RoundReport
from fedrac.results import checkpoint
from fedrac.results.record import read_metrics


@dataclass(frozen=True)
class CheckpointSpec:
    """``checkpoint`` of the configuration.

    Attributes:
        every: rounds between checkpoints; the last finished round always has one, unless the machine dies. With
            ``guard.noise`` every round has one.
        keep: how many are kept, the newest among them.
        best: the metric by which ``best`` is chosen among the evaluated rounds; None: there is none.

    Raises:
        ValueError: a number is less than 1.
    """

    every: int = 1
    keep: int = 2
    best: str | None = "test/loss"

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("keep", self.keep)):
            if value < 1:
                raise ValueError(f"checkpoint.{name}={value} must be at least 1")

    def check(self, tested: Mapping[str, float]) -> None:
        """Raises ValueError if the best is chosen by something that the server, which tests these, does not test.

        What clients test (``clients/...``) is known only afterwards; a server without test data tests nothing.
        """
        if tested and self.best is not None and not self.best.startswith("clients/") and self.best not in tested:
            raise ValueError(f"checkpoint.best={self.best!r} is not tested; choose null or one of {', '.join(tested)}")


class Checkpoints:
    """Writes the checkpoints of one run: a whole one first, then the rounds since, until they are as long as it is.

    Args:
        folder: the run's ``output_dir``, with the record of the rounds before this run began.
        spec: when, and how many.
        strategy: whose state is written.
    """

    def __init__(self, folder: Path, spec: CheckpointSpec, strategy: FedRacLora) -> None:
        self._folder, self._spec, self._strategy = folder, spec, strategy
        self._round = self._written = strategy.finished_rounds  # the last recorded one, and the last on the disk
        self._whole = checkpoint.whole_round(folder)
        self._rounds: list[FinishedRound] | None = None  # that are not written yet; None: what comes is written whole
        self._only: ServerState | None = None  # of the last recorded round, where nothing else leads to it
        self._logged = 0  # bytes of numbers, here and in the log
        self._best = -math.inf
        checkpoint.recover(folder)
        for line in read_metrics(folder / "metrics.jsonl"):
            if self._improves(line) and line["round"] == self._written:
                checkpoint.mark_best(folder)  # the machine may have died before this was done

    def _improves(self, metrics: Mapping[str, Any]) -> bool:
        """Whether these are the best so far; the first of equals is."""
        value = metrics.get(self._spec.best or "")
        if value is None or not math.isfinite(value):
            return False
        score = -value if is_lower_better(self._spec.best or "") else value
        better, self._best = bool(score > self._best), max(score, self._best)
        return better

    def after(self, report: RoundReport) -> None:
        """After every round, once it is recorded."""
        improved = self._improves(report.metrics)
        self._take()
        if improved or self._strategy.guard.noise or report.round % self._spec.every == 0:
            self._write()
        if improved:
            checkpoint.mark_best(self._folder, self._round)

    def before_clients(self) -> None:
        """Before clients see a round's result; those of the next round see it when the round is recorded.

        A round that is done again draws the same noise. If clients had seen its first result, and one of them were away
        the second time, the two results would tell that client's update: with noise no round is done again.
        """
        if self._strategy.guard.noise:
            self._take()
            self._write()

    def _take(self) -> None:
        """The round that has just been finished, once; where it makes the log too long, the rest is dropped."""
        state, last = self._strategy.state, self._strategy.last_round
        if state is None or last is None or state.round == self._round:
            return
        self._round = state.round
        if self._rounds is not None:
            self._rounds.append(last)
            self._logged += last.step.means.nbytes + sum(v.nbytes for own in last.own.values() for v in own.values())
            parts = (state.weights, state.factors, state.moments, *state.clients.values())
            if self._logged >= sum(tensor.nbytes for part in parts for tensor in part.values()):
                self._rounds = None
        self._only = state if self._rounds is None else None

    def _write(self) -> None:
        if self._written == self._round:
            return
        rounds, self._rounds = self._rounds, None  # after a failure
        if rounds is not None:
            checkpoint.append(self._folder, self._strategy.replay, rounds)
        elif self._only is not None:
            self._write_whole(self._only)
        self._rounds, self._only, self._written = [], None, self._round

    def _write_whole(self, state: ServerState) -> None:
        checkpoint.save(self._folder, state, self._strategy.replay.merged(state), self._spec.keep)
        self._whole, self._logged = state.round, 0

    def close(self) -> None:
        """The last recorded round is written whole, and so is the best one: at the end, however it came."""
        if self._whole != self._round:
            self._write_whole(self._recorded())
        checkpoint.complete_best(self._folder)

    def _recorded(self) -> ServerState:
        """After the last recorded round; the next one may be finished, and its tests not."""
        if (state := self._strategy.state) is not None and state.round == self._round:
            return state
        if self._only is not None:
            return self._only
        self._write()
        return checkpoint.load(self._folder)
