"""Fed-RAC-LoRA as a Flower strategy.

The same object drives Flower's simulation, Flower's deployment and the in-process grid. In a ServerApp of one's own::

    strategy = FedRacLora(model, workload, adapt=AdaptSpec({"*": 4}), server=ServerSpec(cohort_size=20))
    result = strategy.start(PromptGrid(grid), ArrayRecord(model.state_dict()), num_rounds=100)

The nodes run `client_app.app`, or a ClientApp built from the same parts as `fedrac.flower.client_app`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor, nn

from fedrac.aggregation.guard import GuardSpec
from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import described, own_shapes, plan_blocks, sent_shapes
from fedrac.algorithm.method import Method
from fedrac.algorithm.rounding import BitsSpec
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.server import ServerSpec, initial_state
from fedrac.algorithm.sketch import Law, SketchSpec
from fedrac.algorithm.state import GuardState, ServerState
from fedrac.flower.round_loop import Loop, train_metrics
from fedrac.flower.round_settings import RoundSettings, Send, TestClients
from fedrac.flower.rounds import Rounds, RoundUnderWay
from fedrac.partition.partition import NODES
from fedrac.protocol import code_digest
from fedrac.protocol.connected_clients import ConnectedClients
from fedrac.protocol.messages import from_record, to_record
from fedrac.protocol.replay import FinishedRound, Replay
from fedrac.protocol.resending import deliver
from fedrac.protocol.round_report import RoundReport
from fedrac.protocol.secure_server import Ask
from fedrac.protocol.sparse import upload_numbers
from fedrac.training.optimizer import LocalSpec

log = logging.getLogger(__name__)


class FedRacLora(Strategy):
    """Algorithm 2 of arXiv 2410.08305 and the family around it (`fedrac.algorithm.method`).

    Args:
        model: says which parameters there are; its values are not used.
        workload: data, partition, model, seed, dtype and device, as `fedrac.flower.host.Host` reads them; hosts get it.
        method, adapt, law: the four choices; which parameters are trained, at which rank; of the random factor.
        local: how clients train.
        local_schedule: of ``local.lr`` over rounds.
        server: cohort, averaging and server step.
        guard, secure, bits: clipping, robust means, noise; sums alone for the server; bits of numbers that are sent.
        send_sketch: ``seed`` (hosts rebuild the random factors) or ``matrix`` (they are sent).
        evaluate_every: rounds between evaluations; the last round is always evaluated.
        evaluate_on_clients: also test on clients' data: True, of the round's cohort; a number, of so many clients, the
            same ones in all rounds; ``all``.
        timeout: seconds to wait for nodes to connect and to say which clients they serve.

    Attributes:
        blocks: what is trained.
        basis: by `Block.key`, what is fixed of two-sided blocks, (k0, n) or (m, p); it is set before the run begins.
        guard_before, bytes_before: what clipping and noise carry on to round 1, and the bytes up and down, of what was
            done with the clients to find it.
        connected: the clients that there are.
        replay: makes the steps of its rounds again.
        rounds: the last round's number; None: not known yet.
        state: where the run stands; None: before it begins.

    Raises:
        ValueError: the settings contradict one another, or nothing would be trained.
    """

    def __init__(
        self,
        model: nn.Module,
        workload: Mapping[str, Any],
        *,
        method: Method | None = None,
        adapt: AdaptSpec | None = None,
        law: Law = "popcount",
        local: LocalSpec | None = None,
        local_schedule: ScheduleSpec | None = None,
        server: ServerSpec | None = None,
        guard: GuardSpec | None = None,
        secure: SecureSpec | None = None,
        bits: BitsSpec | None = None,
        send_sketch: Send = "seed",
        evaluate_every: int = 1,
        evaluate_on_clients: TestClients = False,
        timeout: float = 600.0,
    ) -> None:
        self.workload = {"code": code_digest.digest(), **workload}
        self.method = method or Method()
        self.local = local or LocalSpec()
        self.local_schedule = local_schedule or ScheduleSpec()
        self.server = server or ServerSpec()
        self.guard, self.secure, self.bits = guard or GuardSpec(), secure or SecureSpec(), bits or BitsSpec()
        self.sketch = SketchSpec(law, int(workload["seed"]))
        self.send_sketch = send_sketch
        self.evaluate_every, self.evaluate_on_clients = evaluate_every, evaluate_on_clients
        if evaluate_every < 1:
            raise ValueError(f"evaluate.every={evaluate_every} must be at least 1")
        self.blocks = plan_blocks(model, adapt or AdaptSpec(), self.method)
        self.described = described(model, adapt or AdaptSpec(), self.blocks)
        self.connected, self._timeout = ConnectedClients(self.workload, timeout), timeout
        self.basis: Mapping[str, torch.Tensor] = {}
        self.guard_before, self.bytes_before = GuardState(), (0, 0)
        self.rounds: int | None = None
        self.replay: Replay = self._settings().replay()  # are they right?
        self.state: ServerState | None = None
        self._rounds: Rounds | None = None
        self._under_way: RoundUnderWay | None = None  # of Flower's interface, which hands no value from call to call

    # --- a round, as Flower's Strategy has it -----------------------------------------------------------------------

    def connect(self, grid: Grid, whole: bool = True) -> None:
        """Finds out which clients there are; called before every round, and before a run to fail early.

        Args:
            grid: reaches the hosts.
            whole: there must be a whole cohort, as a run begins with one; else the ``min_fraction`` of it that every
                round needs is enough.

        Raises:
            ValueError: there are fewer clients than that.
            RuntimeError: no node is connected, or one cannot serve.
        """
        size = self.server.cohort_size
        needed = size if whole else self.server.least_clients
        self.connected.refresh(grid, needed)
        if needed > (clients := len(self.connected.clients)):
            raise ValueError(
                f"cohort.size={size} is larger than the population of {clients} clients: set cohort.size={clients} or "
                "less, or connect more nodes"
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for every host that serves a client of the round's cohort.

        Args:
            arrays: read before the first round of this strategy: the model's initial weights, which hosts may have.

        Raises:
            ValueError: the cohort is larger than the population.
            RuntimeError: no node is connected, or one cannot serve.
        """
        rounds, state = self._open(lambda: from_record(arrays))
        self.connect(grid, whole=self._under_way is None)
        self._ask: Ask = partial(deliver, grid, timeout=self._timeout)
        self._under_way = rounds.open(rounds.begin(server_round, state), self._ask)
        return rounds.messages(self._under_way, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Checks the replies, averages the factors in order of client id, and makes the server step.

        Raises:
            CohortFailure: fewer clients than ``min_fraction`` of the cohort answered well, or the new weights would not
                be finite.
            RuntimeError: `configure_train` has not been called.
        """
        if self._rounds is None or self._under_way is None:
            raise RuntimeError(f"round {server_round}: configure_train comes before aggregate_train")
        self.state = self._rounds.finish(self._under_way, replies, self._ask)
        return self.arrays(), train_metrics(self._under_way.report)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """With ``evaluate_on_clients``: one message for every host of a client that tests."""
        if self._rounds is None or self._under_way is None or not self.asks_clients(server_round):
            return []
        self._under_way = self._rounds.testing(self._under_way, self._ask)
        return self._rounds.messages(self._under_way, MessageType.EVALUATE)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean of every metric over all examples of the clients that answered, named ``clients/...``."""
        if self._rounds is None or self._under_way is None:
            return None
        return self._rounds.tested(self._under_way, replies, self._ask)

    def is_evaluated(self, server_round: int) -> bool:
        """Every ``evaluate_every`` rounds, and the last one."""
        return server_round % self.evaluate_every == 0 or server_round == self.rounds

    def asks_clients(self, server_round: int) -> bool:
        """Whether clients test the result of a round."""
        return self.evaluate_on_clients is not False and self.is_evaluated(server_round)

    # --- the run ----------------------------------------------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        *,
        state: ServerState | None = None,
        on_round: Callable[[RoundReport], None] | None = None,
        before_clients: Callable[[], None] | None = None,
    ) -> Result:
        """Runs all rounds after the last finished one.

        Args:
            grid: simulation, deployment or in-process.
            initial_arrays: the model's state dict before round 1, also if ``state`` is given: hosts may have it.
            num_rounds: the last round's number.
            timeout: seconds to wait for a round's replies. Flower's configs are not used.
            evaluate_fn: called on evaluated rounds with the merged weights.
            state: where an earlier run stopped; the run goes on with round ``state.round + 1``.
            on_round: called after every round, e.g. to record it.
            before_clients: called before clients test a round's result, which is `state` by then.

        Returns:
            Flower's `Result` with the merged weights and the metrics by round.

        Raises:
            CohortFailure: a round had too few good replies, or diverged.
            ValueError: ``initial_arrays`` are not the model's.
        """
        rounds = self.open(from_record(initial_arrays), num_rounds, state)
        self.summary()
        test = (lambda number, weights: evaluate_fn(number, to_record(weights))) if evaluate_fn else None
        result = Loop(self, rounds, grid, timeout, test, on_round, before_clients).run(num_rounds)
        result.arrays = self.arrays()
        return result

    def open(self, initial: Mapping[str, Tensor], last: int, state: ServerState | None = None) -> Rounds:
        """Begins a run to round ``last``, or goes on with it from ``state``; what `Loop` makes its rounds with.

        The memory of ``initial``, the state dict before round 1, is shared and not changed.
        """
        self.rounds, self.state, self._rounds = last, state, None
        return self._open(lambda: initial)[0]

    def _open(self, initial: Callable[[], Mapping[str, Tensor]]) -> tuple[Rounds, ServerState]:
        """What makes the rounds from where the run stands, and where that is.

        Raises:
            ValueError: the arrays are not those of the model.
        """
        if self._rounds is None or self.state is None or not self._rounds.is_at(self.state):
            weights = initial()
            if missing := [block.name for block in self.blocks if block.name not in weights]:
                raise ValueError(f"initial_arrays have no {missing[0]!r}: give ArrayRecord(model.state_dict())")
            if self.state is None:
                begun = initial_state(weights, self.blocks, self.method, self.sketch, self.basis)
                self.state = replace(begun, guard=self.guard_before)
            self._rounds = Rounds(self._settings(), self.connected, weights, self.state)
        return self._rounds, self.state

    def _settings(self) -> RoundSettings:
        return RoundSettings(
            workload=self.workload, method=self.method, blocks=self.blocks, sketch=self.sketch, local=self.local,
            local_schedule=self.local_schedule, server=self.server, guard=self.guard, secure=self.secure,
            bits=self.bits, send_sketch=self.send_sketch, test_clients=self.evaluate_on_clients, rounds=self.rounds,
            bytes_before=self.bytes_before,
        )  # fmt: skip

    def arrays(self) -> ArrayRecord:
        """The merged model as it stands."""
        return to_record(self.effective_weights())

    def effective_weights(self) -> dict[str, Tensor]:
        """The merged model as it stands, by parameter name, in the master dtype.

        Raises:
            RuntimeError: the run has not begun.
        """
        if self.state is None:
            raise RuntimeError("the run has not begun: there are no weights yet")
        return self.replay.merged(self.state)

    def last_weights(self) -> dict[str, Tensor] | None:
        """Where `effective_weights` are a mean of rounds (``server.average``), what the last round has led to."""
        return self.replay.last(self.state) if self.state is not None and self.state.mean else None

    @property
    def last_round(self) -> FinishedRound | None:
        """The round that led to `state`; None: it was not made here."""
        return self._rounds.last if self._rounds is not None else None

    @property
    def finished_rounds(self) -> int:
        """The last round that was finished; 0 before the first."""
        return self.state.round if self.state else 0

    @property
    def keeps_on_nodes(self) -> bool:
        """Whether clients keep something between rounds, and nodes are clients with data of their own."""
        separate = self.workload.get("partition", {}).get("scheme") == NODES
        return separate and bool(own_shapes(self.blocks, self.method.at(1)))

    def shapes_at(self, round_: int) -> dict[str, tuple[int, ...]]:
        """Key and shape of every factor that clients upload in ``round_``."""
        return sent_shapes(self.blocks, self.method.at(round_))

    def uploads(self) -> tuple[int, ...]:
        """How many numbers a client of full rank uploads in a round, ascending; more than one where rounds differ."""
        kinds = [self.shapes_at(number) for number in range(1, self.method.period + 1)]
        if (sparse := self.method.densities) is not None:
            return tuple(sorted({upload_numbers(shapes, sparse.upload) for shapes in kinds}))
        return tuple(sorted({sum(torch.Size(shape).numel() for shape in shapes.values()) for shapes in kinds}))

    def summary(self) -> None:
        """Logs what will be trained."""
        log.info("%s: %s", self.method.name, self.described)
        log.debug(
            "%s: %d blocks, %s numbers up per client and round", self.method.name, len(self.blocks), self.uploads()
        )
