"""The rounds of a run, one after another, on a grid."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from flwr.app import Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from torch import Tensor

from fedrac.algorithm.state import ServerState
from fedrac.flower.rounds import Rounds, RoundUnderWay
from fedrac.protocol.resending import deliver
from fedrac.protocol.round_report import RoundReport

Test = Callable[[int, Mapping[str, Tensor]], MetricRecord | None]


class Served(Protocol):
    """What the loop needs of the strategy that it serves.

    Attributes:
        state: where the run stands; the loop sets it after every round. None: before it begins.
    """

    state: ServerState | None

    def connect(self, grid: Grid, whole: bool = True) -> None:
        """Finds out which clients there are."""

    def effective_weights(self) -> Mapping[str, Tensor]:
        """The merged model as it stands."""

    def last_weights(self) -> Mapping[str, Tensor] | None:
        """What the last round has led to, where the merged model is a mean of rounds."""

    def is_evaluated(self, server_round: int) -> bool:
        """Whether a round is tested by the server, and by the clients where they are asked."""

    def asks_clients(self, server_round: int) -> bool:
        """Whether clients test a round's result."""


@dataclass(frozen=True)
class Loop:
    """What every round of a run needs.

    Attributes:
        strategy: has the state between rounds, and says what is tested.
        rounds: makes each of them.
        grid: reaches the hosts.
        timeout: seconds to wait for a round's replies.
        test: called on evaluated rounds with the merged weights, which it may not change.
        on_round: called after every round.
        before_clients: called before clients test a round's result.
    """

    strategy: Served
    rounds: Rounds
    grid: Grid
    timeout: float
    test: Test | None = None
    on_round: Callable[[RoundReport], None] | None = None
    before_clients: Callable[[], None] | None = None

    def run(self, last: int) -> Result:
        """All rounds after the strategy's state to round ``last``; the result has metrics and no weights.

        Raises:
            CohortFailure: a round had too few good replies, or diverged.
        """
        assert self.strategy.state is not None
        result, first = Result(), self.strategy.state.round + 1
        for number in range(first, last + 1):
            begin = time.perf_counter()
            self.strategy.connect(self.grid, whole=number == first)
            round_ = self.rounds.open(self.rounds.begin(number, self.strategy.state), self._ask)
            replies = self._replies(round_, MessageType.TRAIN)
            self.strategy.state = self.rounds.finish(round_, replies, self._ask)
            round_ = replace(round_, state=self.strategy.state)  # what it started from is not needed any more
            result.train_metrics_clientapp[number] = train_metrics(round_.report)
            self._test(round_, result)
            round_.report.seconds = time.perf_counter() - begin
            if self.on_round is not None:
                self.on_round(round_.report)
        return result

    def _ask(self, messages: Iterable[Message]) -> list[Message]:
        return deliver(self.grid, messages, self.timeout)

    def _replies(self, round_: RoundUnderWay, kind: str) -> list[Message]:
        return deliver(self.grid, self.rounds.messages(round_, kind), self.timeout, partial(self.rounds.more, round_))

    def _test(self, round_: RoundUnderWay, result: Result) -> None:
        """By the clients and by the server, where that is wanted; into ``result`` and the round's report."""
        number = round_.report.round
        tests = (
            (result.evaluate_metrics_clientapp, self._by_clients(round_)),
            (result.evaluate_metrics_serverapp, self._by_server(number)),
        )
        for record, found in tests:
            if found is not None:
                record[number] = found
                round_.report.metrics |= {k: float(v) for k, v in found.items()}  # type: ignore[arg-type]

    def _by_clients(self, round_: RoundUnderWay) -> MetricRecord | None:
        if not self.strategy.asks_clients(round_.report.round):
            return None
        if self.before_clients is not None:
            self.before_clients()
        testing = self.rounds.testing(round_, self._ask)
        return self.rounds.tested(testing, self._replies(testing, MessageType.EVALUATE), self._ask)

    def _by_server(self, number: int) -> MetricRecord | None:
        if self.test is None or not self.strategy.is_evaluated(number):
            return None
        found, last = self.test(number, self.strategy.effective_weights()), self.strategy.last_weights()
        if found is not None and last is not None:
            beside: MetricRecord | dict[str, float] = self.test(number, last) or {}
            found.update({f"last/{name.partition('/')[2]}": value for name, value in beside.items()})
        return found


def train_metrics(report: RoundReport) -> MetricRecord:
    """What Flower is told of a round."""
    return MetricRecord({"train/loss": report.train_loss, "clients": report.clients})
