"""One round on the server, in the order in which it happens: `Rounds.begin`, its messages, `Rounds.finish`.

A round under way is a value: each step takes it from the step before.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from flwr.app import Message, MetricRecord, RecordDict
from torch import Tensor

from fedrac.aggregation.guard import GuardSpec, begin, guard, secret_of
from fedrac.aggregation.update_vectors import UpdateVectors
from fedrac.algorithm.blocks import Block, trained_shapes
from fedrac.algorithm.method import Method, RoundMethod
from fedrac.algorithm.round_start import Sketches, draw_sketches
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.server import ServerSpec, advance, draw_cohort, mean_letters, round_means, shares
from fedrac.algorithm.sketch import SketchSpec
from fedrac.algorithm.state import GuardState, ServerState
from fedrac.algorithm.streams import Stream
from fedrac.protocol.client_evaluation import collect_metrics
from fedrac.protocol.connected_clients import ConnectedClients
from fedrac.protocol.downloads import Downloads
from fedrac.protocol.messages import RoundSpec, encode_plan, pack, payload_bytes, to_record
from fedrac.protocol.replay import FinishedRound
from fedrac.protocol.replies import Reply, keeps, lack_of
from fedrac.protocol.round_replies import collect, enforce, enforce_finite
from fedrac.protocol.round_report import RoundReport
from fedrac.protocol.state_log import Step
from fedrac.training.optimizer import LocalSpec

log = logging.getLogger(__name__)

Send = Literal["seed", "matrix"]
TestClients = bool | int | Literal["all"]  # none, the round's cohort, so many, or every client


@dataclass(frozen=True)
class RoundSettings:
    """What all rounds of a run follow; see `fedrac.flower.strategy.FedRacLora`.

    Attributes:
        workload, blocks, method, sketch, local, local_schedule, server, guard, send_sketch: as the strategy has them.
        test_clients: who tests, `FedRacLora`'s ``evaluate_on_clients``.
        rounds: the last round's number; None: not known, as Flower's own ``Strategy.start`` does not tell it.
    """

    workload: Mapping[str, Any]
    method: Method
    blocks: Sequence[Block]
    sketch: SketchSpec
    local: LocalSpec
    local_schedule: ScheduleSpec
    server: ServerSpec
    guard: GuardSpec
    send_sketch: Send
    test_clients: TestClients
    rounds: int | None

    def factor(self, schedule: ScheduleSpec, number: int) -> float:
        """What a step size is multiplied by in round ``number``; see `ScheduleSpec.factor`."""
        return schedule.factor(number, self.rounds)


@dataclass(frozen=True)
class RoundUnderWay:
    """A round from its first message to its last reply.

    Attributes:
        state: that it starts from.
        method: what the method does in this round.
        sketches: its random factors.
        hosts: by node id, the clients of the cohort that the node trains.
        report: what is known of it so far; it is filled as the round goes on.
        failed: nodes of which nothing good has come.
        counted: whether clients that a host simulates are taken to keep, and counted as downloads, what is sent.
    """

    state: ServerState
    method: RoundMethod
    sketches: Sketches
    hosts: Mapping[int, Sequence[int]]
    report: RoundReport
    failed: set[int] = field(default_factory=set)
    counted: bool = True


class Rounds:
    """Makes the rounds of one run.

    Args:
        settings: what all rounds follow.
        connected: the clients that there are.
        initial: the weights before round 1, which hosts may have.
        state: where the run stands.

    Attributes:
        last: the round that was finished last; None: none yet.
    """

    def __init__(
        self, settings: RoundSettings, connected: ConnectedClients, initial: Mapping[str, Tensor], state: ServerState
    ) -> None:
        self._settings, self._connected = settings, connected
        self._downloads = Downloads(initial, state, settings.send_sketch == "seed")
        self.last: FinishedRound | None = None

    def is_at(self, state: ServerState) -> bool:
        """Whether ``state`` is the one that the next round's messages bring the hosts to."""
        return self._downloads.is_at(state)

    def begin(self, number: int, state: ServerState) -> RoundUnderWay:
        """Draws the cohort and the sketches of round ``number``, which starts from ``state``."""
        of = self._settings
        state = replace(state, round=number - 1, guard=begin(of.guard, state.guard))
        secret, clients = secret_of(of.guard, state.guard), self._connected.clients
        size, seed = min(of.server.cohort_size, len(clients)), of.sketch.seed if secret is None else secret
        report = RoundReport(number, [], of.server.eta * of.factor(of.server.schedule, number))
        report.cohort = draw_cohort(clients, size, seed, number)
        sketches = draw_sketches(of.blocks, of.method, of.sketch, number)
        return RoundUnderWay(state, of.method.at(number), sketches, self._connected.by_host(report.cohort), report)

    def messages(self, round_: RoundUnderWay, kind: str) -> list[Message]:
        """One message a host that has not failed; the records are made once and shared by all.

        Args:
            round_: from `begin`.
            kind: ``MessageType.TRAIN``; or ``EVALUATE``, of what `testing` gives.
        """
        of, report, found = self._settings, round_.report, []
        local = replace(of.local, lr=of.local.lr * of.factor(of.local_schedule, report.round))
        blocks = [block.description() for block in of.blocks]
        digest, size = round_.sketches.digest, len(report.cohort)
        spec = RoundSpec(report.round, of.workload, blocks, of.method, of.sketch, digest, local, size)
        matrices = to_record(round_.sketches.values if of.send_sketch == "matrix" else {})
        for node, clients in round_.hosts.items():
            if node in round_.failed:
                continue
            hosted = self._connected.hosts[node]
            content = encode_plan(spec, clients, self._downloads.content(node, hosted), matrices)
            found.append(Message(content, node, kind, group_id=str(report.round)))
            if round_.counted or not hosted.partition:
                report.download_bytes += self._downloads.count(node, hosted, clients)
                report.download_bytes += payload_bytes(matrices) * len(clients)
        return found

    def more(self, round_: RoundUnderWay, answer: Message) -> RecordDict | None:
        """The whole state for a host that says it cannot make it of what it was sent."""
        node = answer.metadata.src_node_id
        if (reason := lack_of(answer)) is None or node not in round_.hosts:
            return None
        log.info("round %d: node %s is sent the whole weights: %s", round_.report.round, node, reason)
        whole, size = self._downloads.whole(node, reason)
        # A host that simulates clients has its own memory to mend, not that of a client.
        round_.report.download_bytes += 0 if self._connected.hosts[node].partition else size
        return whole

    def finish(self, round_: RoundUnderWay, replies: Iterable[Message]) -> ServerState:
        """Checks the replies, averages the factors in order of client id, and makes the server step.

        Returns:
            The state after the round; its report is complete but for tests.

        Raises:
            CohortFailure: fewer clients than ``min_fraction`` of the cohort answered well, or the new weights would not
                be finite.
        """
        report, blocks = round_.report, self._settings.blocks
        reply = self._good(round_, replies)
        enforce(report, len(reply.clients), self._settings.server)
        means, guarded = self._means(round_, reply)
        state = advance(round_.state, blocks, round_.method, round_.sketches.values, means, report.eta)
        enforce_finite(report.round, [*(state.weights[b.name] for b in blocks), *state.factors.values()])
        state = replace(state, guard=guarded)
        step = Step(report.round, report.eta, pack(means))
        self._downloads.move(state, step)
        self.last = FinishedRound(step, self._downloads.digest, guarded)
        report.train_loss, report.clients = sum(reply.losses) / len(reply.losses), len(reply.clients)
        return state

    def _good(self, round_: RoundUnderWay, replies: Iterable[Message]) -> Reply:
        shapes = trained_shapes(self._settings.blocks, round_.method)
        dtype = torch.float64 if self._settings.workload["dtype"] == "float64" else torch.float32
        announced = self._connected.examples_of(round_.report.cohort)
        found = collect(round_.report, round_.hosts, replies, shapes, dtype, announced)
        for node, kept in found.kept.items():
            self._downloads.landed(node, round_.hosts[node], kept)
            if not kept and not self._connected.hosts[node].partition:
                log.warning("round %d: node %s does not keep the weights", round_.report.round, node)
        self._connected.doubt(found.failed)
        round_.failed.update(found.failed)
        return found.reply

    def _means(self, round_: RoundUnderWay, reply: Reply) -> tuple[Mapping[str, Tensor], GuardState]:
        """The means of a round, guarded where that is wanted, and what the guard carries on."""
        of, state, report = self._settings, round_.state, round_.report
        weights = shares(reply.examples, of.server.weighting)
        if not of.guard.active:
            return round_means(state, of.blocks, round_.method, reply.factors, weights), state.guard
        space = UpdateVectors(of.blocks, round_.method, round_.sketches.values, state.factors)
        size, population = len(report.cohort), len(self._connected.clients)
        found = guard(of.guard, state.guard, space, reply.factors, weights, report.round, size, population)
        report.guard = dict(found.facts)
        dtypes = {b.key(x): state.weights[b.name].dtype for b in of.blocks for x in mean_letters(b, round_.method)}
        return {key: mean.to(dtypes[key]) for key, mean in found.means.items()}, found.state

    def testing(self, round_: RoundUnderWay) -> RoundUnderWay:
        """A finished round, with the hosts of the clients that test its result.

        The cohort's downloads count, as they always do. Other clients are tested to measure, once for all rounds drawn
        from the stream ``tested``: where a host only simulates them, this changes nothing that is counted.
        """
        wanted = self._settings.test_clients
        if isinstance(wanted, bool):
            return round_
        clients = self._connected.clients
        if wanted != "all":
            seed = self._settings.sketch.seed
            clients = clients[Stream(seed, "tested").subset(len(clients), min(wanted, len(clients)))]
        return replace(round_, hosts=self._connected.by_host(clients.tolist()), counted=False)

    def tested(self, round_: RoundUnderWay, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean of every metric over all examples of the clients that answered, named ``clients/...``.

        Args:
            round_: from `testing`; its report gets what each client found, and how far they lie apart.
        """
        answers = list(replies)
        for answer in answers:
            node = answer.metadata.src_node_id
            if not answer.has_error() and "metrics" in answer.content.metric_records and node in round_.hosts:
                counts = round_.counted or not self._connected.hosts[node].partition
                self._downloads.landed(node, round_.hosts[node] if counts else [], keeps(answer))
        found = collect_metrics(round_.report.round, round_.hosts, answers)
        if found is None:
            return None
        round_.report.tested = found
        round_.report.metrics |= found.spread()
        return found.record()
