"""Fed-RAC-LoRA as a Flower strategy.

The same object drives Flower's simulation, Flower's deployment and the in-process grid. In a ServerApp of one's own::

    strategy = FedRacLora(model, workload, adapt=AdaptSpec({"*": 4}), server=ServerSpec(cohort_size=20))
    result = strategy.start(PromptGrid(grid), ArrayRecord(model.state_dict()), num_rounds=100)

The nodes run `client_app.app`, or a ClientApp built from the same parts as `fedrac.flower.client_app`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import nn

from fedrac.aggregation.guard import GuardSpec, begin, guard, secret_of
from fedrac.aggregation.update_vectors import UpdateVectors
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import described, plan_blocks, trained_shapes
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import Sketches, draw_sketches
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.server import (
    ServerSpec,
    advance,
    draw_cohort,
    effective_weights,
    initial_state,
    mean_letters,
    round_means,
    shares,
)
from fedrac.algorithm.sketch import Law, SketchSpec
from fedrac.algorithm.state import GuardState, ServerState
from fedrac.flower.round_loop import Evaluate, Loop
from fedrac.protocol import code_digest
from fedrac.protocol.client_evaluation import mean_metrics
from fedrac.protocol.connected_clients import ConnectedClients
from fedrac.protocol.downloads import Downloads
from fedrac.protocol.messages import RoundSpec, encode_plan, from_record, pack, payload_bytes, to_record
from fedrac.protocol.replies import Reply, keeps, lack_of
from fedrac.protocol.round_replies import collect, enforce, enforce_finite
from fedrac.protocol.round_report import RoundReport
from fedrac.protocol.state_log import Step
from fedrac.training.optimizer import LocalSpec

log = logging.getLogger(__name__)

Send = Literal["seed", "matrix"]


@dataclass(frozen=True)
class _Round:
    """A round under way: its plan, kept from `configure_train` to `aggregate_train`."""

    report: RoundReport
    sketches: Sketches
    hosts: Mapping[int, Sequence[int]]
    failed: set[int] = field(default_factory=set)


class FedRacLora(Strategy):
    """Algorithm 2 of arXiv 2410.08305 and its kin (`fedrac.algorithm.method`).

    Args:
        model: says which parameters there are; its values are not used.
        workload: data, partition, model, seed, dtype and device, as `fedrac.flower.host.Host` reads them; hosts get it.
        method: the four choices.
        adapt: which parameters are trained, and at which rank.
        law: of the random factor.
        local: how clients train.
        local_schedule: of ``local.lr`` over rounds.
        server: cohort, averaging and server step.
        guard: clipping, robust means, noise for privacy.
        send_sketch: ``seed`` (hosts rebuild the random factors) or ``matrix`` (they are sent).
        evaluate_every: rounds between evaluations; the last round is always evaluated.
        evaluate_on_clients: also test on the data of the round's cohort.
        timeout: seconds to wait for nodes to connect and to say which clients they serve.

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
        send_sketch: Send = "seed",
        evaluate_every: int = 1,
        evaluate_on_clients: bool = False,
        timeout: float = 600.0,
    ) -> None:
        self.workload = {"code": code_digest.digest(), **workload}
        self.method = method or Method()
        self.local = local or LocalSpec()
        self.local_schedule = local_schedule or ScheduleSpec()
        self.server = server or ServerSpec()
        self.guard = guard or GuardSpec()
        self.sketch = SketchSpec(law, self.method.side, int(workload["seed"]))
        self.send_sketch = send_sketch
        self.evaluate_every, self.evaluate_on_clients = evaluate_every, evaluate_on_clients
        self._check()
        self.blocks = plan_blocks(model, adapt or AdaptSpec(), self.method)
        self._described = described(model, adapt or AdaptSpec(), self.blocks)
        self.shapes = trained_shapes(self.blocks, self.method)
        self.population = ConnectedClients(self.workload, timeout)
        self.rounds: int | None = None
        self.state: ServerState | None = None
        self._current: _Round | None = None
        self._downlink: Downloads | None = None

    def _check(self) -> None:
        if self.local.precondition and self.method.train == "both":
            raise ValueError(
                "local.precondition=true needs a frozen sketch, but method.train=both trains the two factors: "
                "set local.precondition=false"
            )
        if self.send_sketch not in ("seed", "matrix"):
            raise ValueError(f"sketch.send={self.send_sketch!r} is unknown: choose seed or matrix")
        if self.evaluate_every < 1:
            raise ValueError(f"evaluate.every={self.evaluate_every} must be at least 1")
        self.guard.check(self.method, self.server.weighting, self.server.least_clients)

    # --- training -----------------------------------------------------------------------------------------------

    def connect(self, grid: Grid) -> None:
        """Finds out which clients there are; called before every round, and before a run to fail early.

        A run begins with a whole cohort; it goes on with the ``min_fraction`` of it that every round needs.

        Raises:
            ValueError: there are fewer clients than that.
            RuntimeError: no node is connected, or one cannot serve.
        """
        size = self.server.cohort_size
        needed = size if self._current is None else self.server.least_clients
        self.population.refresh(grid, needed)
        if needed > (clients := len(self.population.clients)):
            raise ValueError(
                f"cohort.size={size} is larger than the population of {clients} clients: lower it or connect more nodes"
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
        if self.state is None:
            self.state = initial_state(from_record(arrays), self.blocks, self.method, self.sketch)
        if self._downlink is None or not self._downlink.is_at(self.state):
            self._downlink = Downloads(from_record(arrays), self.state, self.send_sketch == "seed")
        self.connect(grid)
        self.state = replace(self.state, guard=begin(self.guard, self.state.guard))
        secret = secret_of(self.guard, self.state.guard)
        seed = self.sketch.seed if secret is None else secret
        clients, size = self.population.clients, self.server.cohort_size
        report = RoundReport(server_round, [], self.server.eta * self._factor(self.server.schedule, server_round))
        report.cohort = draw_cohort(clients, min(size, len(clients)), seed, server_round)
        sketches = draw_sketches(self.blocks, self.method, self.sketch, server_round)
        self._current = _Round(report, sketches, self.population.by_host(report.cohort))
        return self._messages(self._current, MessageType.TRAIN)

    def _factor(self, schedule: ScheduleSpec, server_round: int) -> float:
        if self.rounds is None and schedule.shape in ("linear", "cosine"):
            raise ValueError(
                f"schedule.shape={schedule.shape} needs the number of rounds, which Flower's Strategy.start does not "
                "tell: call start of FedRacLora, or set the strategy's attribute rounds"
            )
        return schedule.factor(server_round, self.rounds or server_round)

    def _messages(self, current: _Round, kind: str) -> list[Message]:
        """One message a host that has not failed; the records are made once and shared by all."""
        assert self._downlink is not None
        report, found = current.report, []
        spec = RoundSpec(
            report.round,
            self.workload,
            [block.description() for block in self.blocks],
            self.method,
            self.sketch,
            current.sketches.digest,
            replace(self.local, lr=self.local.lr * self._factor(self.local_schedule, report.round)),
        )
        matrices = to_record(current.sketches.values if self.send_sketch == "matrix" else {})
        for node, clients in current.hosts.items():
            if node in current.failed:
                continue
            update = self._downlink.content(node, self.population.hosts[node])
            content = encode_plan(spec, clients, update, matrices)
            found.append(Message(content, node, kind, group_id=str(report.round)))
            report.download_bytes += self._downlink.count(node, self.population.hosts[node], clients)
            report.download_bytes += payload_bytes(matrices) * len(clients)
        return found

    def more(self, answer: Message) -> RecordDict | None:
        """The whole state for a host that says it cannot make it of what it was sent."""
        assert self._current is not None and self._downlink is not None
        report, node = self._current.report, answer.metadata.src_node_id
        if (reason := lack_of(answer)) is None or node not in self._current.hosts:
            return None
        log.info("round %d: node %s is sent the whole weights: %s", report.round, node, reason)
        whole, size = self._downlink.whole(node, reason)
        # A host that simulates clients has its own memory to mend, not that of a client.
        report.download_bytes += 0 if self.population.hosts[node].partition else size
        return whole

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Checks the replies, averages the factors in order of client id, and makes the server step.

        Raises:
            CohortFailure: fewer clients than ``min_fraction`` of the cohort answered well, or the new weights would not
                be finite.
        """
        metrics = self.step(server_round, replies)
        return self.arrays(), metrics

    def step(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        """As `aggregate_train`, without the new weights: `arrays` has them, should they be wanted."""
        assert self.state is not None and self._current is not None and self._downlink is not None
        current, report = self._current, self._current.report
        reply = self._collect(current, replies)
        enforce(report, len(reply.clients), self.server)
        before = replace(self.state, round=server_round - 1)
        means, guard_state = self._means(before, current, reply)
        state = advance(before, self.blocks, self.method, current.sketches.values, means, report.eta)
        enforce_finite(server_round, [*(state.weights[b.name] for b in self.blocks), *state.factors.values()])
        self.state = replace(state, guard=guard_state)
        self._downlink.move(self.state, Step(server_round, report.eta, pack(means)))
        report.train_loss = sum(reply.losses) / len(reply.losses)
        return MetricRecord({"train/loss": report.train_loss, "clients": len(reply.clients)})

    def _collect(self, current: _Round, replies: Iterable[Message]) -> Reply:
        assert self._downlink is not None
        dtype = torch.float64 if self.workload["dtype"] == "float64" else torch.float32
        announced = self.population.examples_of(current.report.cohort)
        found = collect(current.report, current.hosts, replies, self.shapes, dtype, announced)
        for node, kept in found.kept.items():
            self._downlink.landed(node, current.hosts[node], kept)
            if not kept and not self.population.hosts[node].partition:
                log.warning("round %d: node %s does not keep the weights", current.report.round, node)
        self.population.doubt(found.failed)
        current.failed.update(found.failed)
        return found.reply

    def arrays(self) -> ArrayRecord:
        """The merged model as it stands."""
        return to_record(self.effective_weights())

    def _means(
        self, state: ServerState, current: _Round, reply: Reply
    ) -> tuple[Mapping[str, torch.Tensor], GuardState]:
        """The means of a round, guarded where that is wanted, and what the guard carries on."""
        weights, report = shares(reply.examples, self.server.weighting), current.report
        if not self.guard.active:
            return round_means(state, self.blocks, self.method, reply.factors, weights), state.guard
        space = UpdateVectors(self.blocks, self.method, current.sketches.values, state.factors)
        size, population = len(report.cohort), len(self.population.clients)
        found = guard(self.guard, state.guard, space, reply.factors, weights, report.round, size, population)
        report.guard = dict(found.facts)
        dtypes = {b.key(x): state.weights[b.name].dtype for b in self.blocks for x in mean_letters(b, self.method)}
        return {key: mean.to(dtypes[key]) for key, mean in found.means.items()}, found.state

    def effective_weights(self) -> dict[str, torch.Tensor]:
        """The merged model as it stands, by parameter name, in the master dtype."""
        assert self.state is not None
        if not self.state.factors:  # everything is merged already; no sketch is needed
            return effective_weights(self.state, self.blocks, self.method, {})
        sketches = draw_sketches(self.blocks, self.method, self.sketch, max(self.state.round, 1))
        return effective_weights(self.state, self.blocks, self.method, sketches.values)

    # --- evaluation ---------------------------------------------------------------------------------------------

    def is_evaluated(self, server_round: int) -> bool:
        """Every ``evaluate_every`` rounds, and the last one."""
        return server_round % self.evaluate_every == 0 or server_round == self.rounds

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """With ``evaluate_on_clients``: one message for every host of the round's cohort."""
        if not (self.evaluate_on_clients and self.is_evaluated(server_round)) or self._current is None:
            return []
        return self._messages(self._current, MessageType.EVALUATE)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean of every metric over all examples of the clients that answered, named ``clients/...``."""
        answers = list(replies)
        for answer in answers:
            node = answer.metadata.src_node_id
            tested = not answer.has_error() and "metrics" in answer.content.metric_records
            if self._current and self._downlink and tested and node in self._current.hosts:
                self._downlink.landed(node, self._current.hosts[node], keeps(answer))
        return mean_metrics(server_round, answers)

    # --- the run ------------------------------------------------------------------------------------------------

    @property
    def report(self) -> RoundReport:
        """Of the round under way, or the last one; one must have begun."""
        assert self._current is not None
        return self._current.report

    def summary(self) -> None:
        """Logs what will be trained."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        log.info("%s: %s", self.method.name, self._described)
        log.debug("%s: %d blocks, %d numbers up per client and round", self.method.name, len(self.blocks), sum(sizes))

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Evaluate | None = None,
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
            timeout: seconds to wait for a round's replies.
            train_config, evaluate_config: of Flower's interface; the strategy's methods do not use them.
            evaluate_fn: called on evaluated rounds with the merged weights.
            state: where an earlier run stopped; the run goes on with round ``state.round + 1``.
            on_round: called after every round, e.g. to record it.
            before_clients: called before clients test a round's result, which is `state` by then.

        Returns:
            Flower's `Result` with the merged weights and the metrics by round.

        Raises:
            CohortFailure: a round had too few good replies, or diverged.
        """
        self.rounds, self.state, self._downlink = num_rounds, state, None
        self.summary()
        loop = Loop(self, grid, timeout, evaluate_fn, on_round, before_clients)
        return loop.run(initial_arrays, train_config or ConfigRecord(), evaluate_config or ConfigRecord())
