"""The rounds of a run, one after another, for a strategy on a grid."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fedrac.protocol.resending import deliver
from fedrac.protocol.round_report import RoundReport

if TYPE_CHECKING:
    from fedrac.flower.strategy import FedRacLora

Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


@dataclass(frozen=True)
class Loop:
    """What every round of a run needs.

    Attributes:
        strategy: says what is sent, and what becomes of the replies; it has the state.
        grid: reaches the hosts.
        timeout: seconds to wait for a round's replies.
        evaluate: called on evaluated rounds with the merged weights.
        on_round: called after every round.
        before_clients: called before clients test a round's result.
    """

    strategy: "FedRacLora"
    grid: Grid
    timeout: float
    evaluate: Evaluate | None = None
    on_round: Callable[[RoundReport], None] | None = None
    before_clients: Callable[[], None] | None = None

    def run(self, initial: ArrayRecord, train_config: ConfigRecord, evaluate_config: ConfigRecord) -> Result:
        """All rounds after the last finished one.

        Args:
            initial: the weights before round 1.
            train_config, evaluate_config: for the strategy.

        Raises:
            CohortFailure: a round had too few good replies, or diverged.
        """
        strategy, result = self.strategy, Result(arrays=initial)
        assert strategy.rounds is not None
        for number in range(strategy.state.round + 1 if strategy.state else 1, strategy.rounds + 1):
            begin = time.perf_counter()
            messages = strategy.configure_train(number, initial, train_config, self.grid)
            replies = deliver(self.grid, messages, self.timeout, strategy.more)
            result.train_metrics_clientapp[number] = strategy.step(number, replies)
            self._test(number, result, evaluate_config)
            strategy.report.seconds = time.perf_counter() - begin
            if self.on_round is not None:
                self.on_round(strategy.report)
        result.arrays = strategy.arrays() if strategy.state else initial
        return result

    def _test(self, number: int, result: Result, config: ConfigRecord) -> None:
        """By the clients and by the server, where that is wanted; into ``result`` and the round's report."""
        tests = (
            (result.evaluate_metrics_clientapp, self._by_clients(number, result.arrays, config)),
            (result.evaluate_metrics_serverapp, self._by_server(number)),
        )
        for record, found in tests:
            if found is not None:
                record[number] = found
                self.strategy.report.metrics |= {k: float(v) for k, v in found.items()}  # type: ignore[arg-type]

    def _by_clients(self, number: int, arrays: ArrayRecord, config: ConfigRecord) -> MetricRecord | None:
        messages = list(self.strategy.configure_evaluate(number, arrays, config, self.grid))
        if not messages:
            return None
        if self.before_clients is not None:
            self.before_clients()
        replies = deliver(self.grid, messages, self.timeout, self.strategy.more)
        return self.strategy.aggregate_evaluate(number, replies)

    def _by_server(self, number: int) -> MetricRecord | None:
        if self.evaluate is None or not self.strategy.is_evaluated(number):
            return None
        return self.evaluate(number, self.strategy.arrays())
