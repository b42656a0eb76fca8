"""One round on the server, in the order in which it happens: `Rounds.begin`, its messages, `Rounds.finish`.

A round under way is a value: each step takes it from the step before.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from flwr.app import Message, MessageType, MetricRecord, RecordDict
from torch import Tensor

from fedrac.aggregation.guard import begin, guard, secret_of
from fedrac.aggregation.secure_grid import SecureTotal
from fedrac.aggregation.secure_mean import secure_mean
from fedrac.aggregation.update_vectors import UpdateVectors
from fedrac.algorithm import returned
from fedrac.algorithm.blocks import own_shapes, sent_shapes
from fedrac.algorithm.controlled import Controlled
from fedrac.algorithm.means import Cohort
from fedrac.algorithm.method import RoundMethod
from fedrac.algorithm.round_means import mean_letters, mean_shapes, round_means
from fedrac.algorithm.round_start import Sketches, draw_sketches
from fedrac.algorithm.server import shares
from fedrac.algorithm.server_step import advance
from fedrac.algorithm.state import GuardState, ServerState
from fedrac.algorithm.streams import Stream
from fedrac.flower.round_settings import RoundSettings
from fedrac.protocol import own_state, secure_metrics
from fedrac.protocol.client_evaluation import collect_metrics
from fedrac.protocol.coding import CodedRound
from fedrac.protocol.connected_clients import ConnectedClients
from fedrac.protocol.downloads import Downloads
from fedrac.protocol.messages import RoundSpec, Shapes, encode_plan, payload_bytes, to_record
from fedrac.protocol.ranked import RankedCoding, pruned, ranks_of
from fedrac.protocol.replay import FinishedRound
from fedrac.protocol.replies import Reply, keeps, lack_of, meta_of, offers_of
from fedrac.protocol.round_replies import collect, enforce, enforce_finite
from fedrac.protocol.round_report import CohortFailure, RoundReport
from fedrac.protocol.secure_server import Ask, SecureRound
from fedrac.protocol.secure_update import MASKED
from fedrac.protocol.simulated_clock import SimulatedClock
from fedrac.protocol.state_log import Step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundUnderWay:
    """A round from its first message to its last reply.

    Attributes:
        state: that it starts from.
        method: what the method does in this round.
        sketches: its random factors.
        hosts: by node id, the clients of the cohort that the node trains.
        ranks: by client of the cohort, where they differ; else empty.
        report: what is known of it so far; it is filled as the round goes on.
        failed: nodes of which nothing good has come.
        counted: whether clients that a host simulates are taken to keep, and counted as downloads, what is sent.
        secure: what its clients have agreed on, where the server is to see their sum alone.
    """

    state: ServerState
    method: RoundMethod
    sketches: Sketches
    hosts: Mapping[int, Sequence[int]]
    report: RoundReport
    failed: set[int] = field(default_factory=set)
    counted: bool = True
    secure: SecureRound | None = None
    ranks: Mapping[int, int] = field(default_factory=dict)


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
        density = None if (sparse := settings.method.densities) is None else sparse.download
        self._downloads = Downloads(initial, state, settings.send_sketch == "seed", density)
        self._replay = settings.replay()
        self._clock = SimulatedClock(
            settings.server.system,
            settings.sketch.seed,
            self._replay,
            settings.bits.upload,
            settings.local.epochs,
            connected,
            self._downloads,
            initial,
            state.round,
        )
        self._own, self._lowered = state.clients, state.ranks
        self.last: FinishedRound | None = None

    def is_at(self, state: ServerState) -> bool:
        """Whether ``state`` is the one that the next round's messages bring the hosts to."""
        return self._downloads.is_at(state)

    def begin(self, number: int, state: ServerState) -> RoundUnderWay:
        """Draws the cohort and the sketches of round ``number``, which starts from ``state``."""
        of = self._settings
        state = replace(state, round=number - 1, guard=begin(of.guard, state.guard))
        secret, connected = secret_of(of.guard, state.guard), self._connected
        seed, size = of.sketch.seed if secret is None else secret, of.server.cohort_size
        report = RoundReport(number, [], of.server.eta * of.factor(of.server.schedule, number))
        if number == 1:
            report.upload_bytes, report.download_bytes = of.bytes_before
        report.cohort = of.server.selection.draw(connected.clients, connected.examples, size, seed, number)
        self._check_participation(len(connected.clients))
        at = returned.of_round(of.method, number)
        sketches = draw_sketches(of.blocks, of.method, of.sketch, number, state.basis)
        ranks = self._ranks(report.cohort)
        if of.server.system.is_active:
            self._clock.tell(report, None if of.send_sketch == "seed" else sketches.values, ranks)
        hosts = connected.by_host([client for client in report.cohort if client not in report.late])
        return RoundUnderWay(state, at, sketches, hosts, report, ranks=ranks)

    def _check_participation(self, population: int) -> None:
        """Raises ValueError where controls would be carried on for another number of clients than there are.

        Some of all may have no examples, and so take no part: a tenth more or less is let pass.
        """
        method, share = self._settings.method, self._settings.server.cohort_size / population
        if isinstance(method, Controlled) and abs(method.participation - share) > 0.1 * share:
            raise ValueError(
                f"method.participation={method.participation}, but {self._settings.server.cohort_size} of {population} "
                f"clients take part in a round: set method.participation={share:.6g}"
            )

    def _ranks(self, cohort: Sequence[int]) -> dict[int, int]:
        of, connected = self._settings, self._connected
        if not of.method.has_ranks:
            return {}
        most = max((block.rank for block in of.blocks if block.rank is not None), default=1)
        bounds = {c: connected.hosts[node].rank for node, clients in connected.by_host(cohort).items() for c in clients}
        known = {c: [of.server.system.rank(c), bounds[c], most, self._lowered.get(c)] for c in bounds}
        return ranks_of(of.method, of.sketch.seed, known)

    def open(self, round_: RoundUnderWay, ask: Ask) -> RoundUnderWay:
        """Has the clients agree on masks, where the server is to see their sum alone; who cannot is left out.

        Args:
            round_: from `begin`.
            ask: sends messages and waits for the answers.

        Raises:
            CohortFailure: fewer clients than ``min_fraction`` of the cohort have agreed, or too few around one of them.
        """
        of, report = self._settings, round_.report
        if not of.secure.enabled:
            return round_
        secure = SecureRound(of.secure, report.round, round_.hosts)
        secure.agree(of.workload, of.sketch.seed, ask)
        self._connected.doubt(node for node, _ in secure.refused)
        report.refused = [refusal for _, refusal in secure.refused]
        enforce(report, len(secure.clients), of.server)
        return replace(round_, hosts=secure.hosts, secure=secure)

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
        grid = of.grid(round_.method)
        spec = RoundSpec(report.round, of.workload, blocks, of.method, of.sketch, digest, local, size, grid, of.bits)
        matrices = to_record(round_.sketches.values if of.send_sketch == "matrix" else {})
        for node, clients in round_.hosts.items():
            if node in round_.failed:
                continue
            hosted = self._connected.hosts[node]
            ranks = round_.ranks if kind == MessageType.TRAIN else None
            content = encode_plan(spec, clients, self._downloads.content(node, hosted), matrices, ranks)
            if self._own and hosted.partition and (of.method.personal or kind == MessageType.TRAIN):
                content[own_state.NAME] = own_state.encode({c: self._own[c] for c in clients if c in self._own})
            if self._connected.own_key and not hosted.partition:
                content[own_state.KEY] = own_state.key_record(self._connected.own_key)
            if round_.secure is not None:
                content.update(round_.secure.content(clients))
            found.append(Message(content, node, kind, group_id=str(report.round)))
            if round_.counted or not hosted.partition:
                report.download_bytes += self._downloads.count(node, hosted, clients)
                report.download_bytes += payload_bytes(matrices) * len(clients)
        return found

    def more(self, round_: RoundUnderWay, answer: Message) -> RecordDict | None:
        """What a host still needs that says it cannot make the state of what it was sent."""
        node = answer.metadata.src_node_id
        if (reason := lack_of(answer)) is None or node not in round_.hosts:
            return None
        log.info("round %d: node %s is sent more: %s", round_.report.round, node, reason)
        hosted = self._connected.hosts[node]
        rest, size = self._downloads.more(node, hosted, reason, offers_of(answer))
        # A host that simulates clients has its own memory to mend, not that of a client.
        round_.report.download_bytes += 0 if hosted.partition else size
        return rest

    def finish(self, round_: RoundUnderWay, replies: Iterable[Message], ask: Ask) -> ServerState:
        """Checks the replies, averages the factors in order of client id, and makes the server step.

        Args:
            round_: from `open`.
            replies: to its messages.
            ask: sends messages and waits for the answers, where masks are to be taken away.

        Returns:
            The state after the round; its report is complete but for tests.

        Raises:
            CohortFailure: fewer clients than ``min_fraction`` of the cohort answered well, or the new weights would not
                be finite, or masks cannot be taken away.
        """
        report, blocks = round_.report, self._settings.blocks
        reply = self._good(round_, replies)
        enforce(report, len(reply.clients), self._settings.server)
        report.train_loss, report.clients = sum(reply.losses) / len(reply.losses), len(reply.clients)
        round_, reply, lowered = self._pruned(round_, reply)
        means, guarded = self._means(round_, reply, ask)
        coding, before = self._coded(round_).means(self._settings.bits.download), round_.state
        packed = coding.encode(means)
        if coding.bits is not None:  # the server steps with what the nodes get
            means = coding.decode(packed, mean_shapes(blocks, round_.method))
        state = advance(before, blocks, round_.method, round_.sketches.values, means, report.eta)
        carried = (*state.factors.values(), *state.moments.values())
        enforce_finite(report.round, [*(state.weights[b.name] for b in blocks), *carried])
        self._own, self._lowered = {**before.clients, **reply.own}, {**before.ranks, **lowered}
        state = self._replay.averaged(replace(state, guard=guarded, clients=self._own, ranks=self._lowered))
        step = Step(report.round, report.eta, packed)
        self._downloads.move(state, step)
        self.last = FinishedRound(step, self._downloads.digest, guarded, reply.own, lowered)
        return state

    def _pruned(self, round_: RoundUnderWay, reply: Reply) -> tuple[RoundUnderWay, Reply, Mapping[int, int]]:
        """The round and its replies without what clients prune, and who has a lower rank from now on."""
        method, start = self._settings.method, round_.state.factors
        if not round_.ranks or not method.has_own("ranks_after"):
            return round_, reply, {}
        lowered, factors = pruned(method, round_.ranks, reply.clients, start, reply.factors)
        return replace(round_, ranks={**round_.ranks, **lowered}), replace(reply, factors=factors), lowered

    def _coded(self, round_: RoundUnderWay) -> CodedRound:
        of, sketches = self._settings, round_.sketches.values
        return CodedRound(of.sketch.seed, round_.report.round, of.blocks, round_.method, sketches, round_.state)

    def _good(self, round_: RoundUnderWay, replies: Iterable[Message]) -> Reply:
        shapes: Shapes = sent_shapes(self._settings.blocks, round_.method)
        own = own_shapes(self._settings.blocks, round_.method)
        dtype = torch.float64 if self._settings.workload["dtype"] == "float64" else torch.float32
        if (grid := self._settings.grid(round_.method)) is not None:
            entries = sum(math.prod(shape) for shape in shapes.values())
            shapes, dtype = {MASKED: (grid.length(entries),)}, grid.dtype
        announced = self._connected.examples_of(round_.report.cohort)
        before = round_.secure.refused if round_.secure else []
        bits = self._settings.bits.upload
        coding = RankedCoding(round_.ranks) if round_.ranks else self._coded(round_).uploads(bits)
        found = collect(round_.report, round_.hosts, replies, shapes, dtype, announced, before, coding, own)
        for node, kept in found.kept.items():
            self._downloads.landed(node, round_.hosts[node], kept)
            if not kept and not self._connected.hosts[node].partition:
                log.warning("round %d: node %s does not keep the weights", round_.report.round, node)
        self._connected.doubt(found.failed)
        round_.failed.update(found.failed)
        return found.reply

    def _means(self, round_: RoundUnderWay, reply: Reply, ask: Ask) -> tuple[Mapping[str, Tensor], GuardState]:
        """The means of a round, guarded where that is wanted, and what the guard carries on."""
        of, state, report = self._settings, round_.state, round_.report
        weights = shares(reply.examples, of.server.weighting)
        if round_.secure is None and not of.guard.active:
            ranks = [round_.ranks[client] for client in reply.clients] if round_.ranks else None
            cohort = Cohort(weights, reply.clients, reply.losses, ranks)
            return round_means(state, of.blocks, round_.method, reply.factors, cohort), state.guard
        space = UpdateVectors(of.blocks, round_.method, round_.sketches.values, state.factors)
        size, population = len(report.cohort), len(self._connected.clients)
        if round_.secure is not None:
            total = self._total(round_, round_.secure, reply, ask)
            found = secure_mean(of.guard, state.guard, space, total, len(reply.clients), report.round, size)
        else:
            found = guard(of.guard, state.guard, space, reply.factors, weights, report.round, size, population)
        report.guard = dict(found.facts)
        dtypes = {b.key(x): state.weights[b.name].dtype for b in of.blocks for x in mean_letters(b, round_.method)}
        return {key: mean.to(dtypes[key]) for key, mean in found.means.items()}, found.state

    def _total(self, round_: RoundUnderWay, secure: SecureRound, reply: Reply, ask: Ask) -> SecureTotal:
        """The sum of the updates that came under masks."""
        report, grid = round_.report, self._settings.grid(round_.method)
        assert grid is not None
        words = secure.unmask(dict(zip(reply.clients, reply.factors[MASKED], strict=True)), ask)
        report.upload_bytes += secure.up
        report.download_bytes += secure.down
        try:
            total = grid.decode(words, len(reply.clients))
        except ValueError as error:
            raise CohortFailure(f"round {report.round}: {error}; the weights stay as they are") from error
        report.train_loss = math.nan if total.loss is None else total.loss / len(reply.clients)
        return total

    def testing(self, round_: RoundUnderWay, ask: Ask) -> RoundUnderWay:
        """A finished round, with the hosts of the clients that test its result; none where masks cannot be agreed on.

        The cohort's downloads count, as they always do. Other clients are tested to measure, once for all rounds drawn
        from the stream ``tested``: where a host only simulates them, this changes nothing that is counted.
        """
        of, wanted = self._settings, self._settings.test_clients
        if not isinstance(wanted, bool):
            clients = self._connected.clients
            if wanted != "all":
                clients = clients[Stream(of.sketch.seed, "tested").subset(len(clients), min(wanted, len(clients)))]
            round_ = replace(round_, hosts=self._connected.by_host(clients.tolist()), counted=False)
        if not of.secure.enabled:
            return round_
        there = {node: clients for node, clients in round_.hosts.items() if node not in round_.failed}
        secure = SecureRound(of.secure, round_.report.round, there)
        agreed = secure_metrics.agree(secure, of.workload, of.sketch.seed, ask)
        return replace(round_, hosts=secure.hosts if agreed else {}, secure=secure)

    def tested(self, round_: RoundUnderWay, replies: Iterable[Message], ask: Ask) -> MetricRecord | None:
        """Mean of every metric over all examples of the clients that answered, named ``clients/...``.

        The report gets what each client found, and how far they lie apart, where the server sees that.

        Args:
            round_, replies: from `testing`, and to its messages.
            ask: sends messages and waits for the answers, where masks are to be taken away.
        """
        answers, number = list(replies), round_.report.round
        for answer in answers:
            node = answer.metadata.src_node_id
            if node in round_.hosts and meta_of(answer):
                counts = round_.counted or not self._connected.hosts[node].partition
                self._downloads.landed(node, round_.hosts[node] if counts else [], keeps(answer))
        if round_.secure is not None:
            return secure_metrics.found(round_.secure, number, answers, ask)
        found = collect_metrics(number, round_.hosts, answers)
        if found is None:
            return None
        round_.report.tested = found
        round_.report.metrics |= found.spread()
        return found.record()
