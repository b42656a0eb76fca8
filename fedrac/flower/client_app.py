"""The ClientApp: a host of clients. It answers which clients it serves, trains them, and tests them."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedrac.aggregation.update_vectors import UpdateVectors
from fedrac.algorithm.blocks import Block, own_shapes
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.server import of_client
from fedrac.algorithm.state import ServerState
from fedrac.flower.host import Host
from fedrac.flower.node import answering, host_of, ledger_of, rules_of
from fedrac.loading.limits import Refused
from fedrac.loading.told import told
from fedrac.protocol import column_sums, own_state, resending, secure_client, secure_metrics
from fedrac.protocol.catch_up import follow, merged, replica_of
from fedrac.protocol.client_evaluation import encode_metrics
from fedrac.protocol.coding import CodedRound
from fedrac.protocol.connected_clients import decode_question, encode_hosted
from fedrac.protocol.ledger import Ledger
from fedrac.protocol.messages import RoundPlan, Shapes, decode_plan
from fedrac.protocol.node_config import NodeConfig
from fedrac.protocol.own_noise import protected
from fedrac.protocol.own_state import NodeOwn, Own
from fedrac.protocol.policy import Policy
from fedrac.protocol.ranked import RankedCoding
from fedrac.protocol.records import find, record_of
from fedrac.protocol.replies import Coding, Reply, encode_reply
from fedrac.protocol.secure_messages import NAME as SECURE
from fedrac.protocol.secure_messages import ids
from fedrac.protocol.secure_update import hidden

log = logging.getLogger(__name__)

app = ClientApp()


@app.query()
@answering
def query(message: Message, context: Context) -> RecordDict:
    """Which clients does this node serve, how many examples has each, and which weights has it already?"""
    if not message.content:  # a sign of life is all that is wanted
        time.sleep(resending.SIGN_TAKES)
        return RecordDict()
    host = host_of(decode_question(message.content), context)
    there = replica_of(host.initial, context)
    rank = NodeConfig.read(context.node_config).rank
    offers, initial = tuple(there.offers()), there.initial.digest
    return encode_hosted(replace(host.hosted(), offers=offers, initial=initial, rank=rank))


@app.train()
@answering
def train(message: Message, context: Context) -> RecordDict:
    """Trains the clients that the server's plan names."""
    asked, rules = _Asked.read(message, context), rules_of(context)
    _check_ranks(asked, NodeConfig.read(context.node_config).rank)
    if rules is not None:
        rules.policy.check_round(asked.plan.spec, tuple(asked.blocks), asked.host.model)
    state, kept = asked.follow(context)
    if rules is not None:
        ledger_of(context).count("rounds", rules.policy.most_rounds)
    reply, failed = asked.host.train(asked.plan, state, asked.own(message, context, asked.plan.spec.round))
    if rules is not None and rules.policy.clip is not None:
        reply = _protected(asked.plan, asked.blocks, state, reply, ledger_of(context), rules.policy)
    spec = asked.plan.spec
    if spec.grid is not None:
        boxes, space = record_of(message.content, SECURE, ConfigRecord), _space(asked.plan, asked.blocks, state)
        reply, more = hidden(spec.round, spec.grid, space, asked.host.seed, reply, boxes, context.state)
        failed |= more
    answer = encode_reply(spec.round, reply, failed, kept, _coding(asked.plan, asked.blocks, state))
    if reply.own and asked.host.is_own:
        (factors,) = reply.own.values()
        _kept_here(asked.host, message, context).keep(spec.round, factors)
    elif reply.own:
        answer[own_state.NAME] = own_state.encode(reply.own)
    return answer


@app.query(SECURE)
@answering
def secure(message: Message, context: Context) -> RecordDict:
    """Keys, shares, and shares again: what the clients here have to do so that the server sees sums alone."""
    asked = record_of(message.content, SECURE, ConfigRecord)
    if asked["step"] == "keys":
        host_of(json.loads(str(asked["workload"])), context).check_served(ids(asked, "clients"))
    return secure_client.answer(asked, context.state)


@app.query(column_sums.ACTION)
@answering
def columns(message: Message, context: Context) -> RecordDict:
    """Sums over the columns of the node's own table, under masks."""
    workload, rules = column_sums.workload_of(message.content), rules_of(context)
    if rules is not None and rules.policy.noise:
        raise Refused("sums of columns are exact, and what leaves here has noise", "noise")
    words = host_of(workload, context).column_sums()
    (masked,) = secure_client.masked(0, record_of(message.content, SECURE, ConfigRecord), words, context.state).values()
    return column_sums.answer(masked)


@app.evaluate()
@answering
def evaluate(message: Message, context: Context) -> RecordDict:
    """Tests the global model on the data of the clients that the server names."""
    asked, rules, boxes = _Asked.read(message, context), rules_of(context), find(message.content, SECURE, ConfigRecord)
    if rules is not None and rules.policy.secure and boxes is None:
        raise Refused("what tests find leaves here under masks alone: set secure_aggregation=on", "secure")
    state, kept = asked.follow(context)
    found = asked.host.evaluate(merged(asked.plan, asked.blocks, state), asked.plan.clients)
    if asked.plan.spec.method.personal:
        found |= _personal(asked, state, asked.own(message, context, asked.plan.spec.round + 1))
    if boxes is None:
        return encode_metrics(found, kept)
    words = secure_metrics.encoded(found, asked.plan.clients)
    masked = secure_client.masked(asked.plan.spec.round, boxes, words, context.state)
    return secure_metrics.encode(found, masked, kept)


def _personal(asked: "_Asked", state: ServerState, own: Own) -> dict[str, list[float]]:
    """What each client's own model is worth to it, beside the global one: the same sums, named ``personal_...``."""
    columns: dict[str, list[float]] = {}
    for client in asked.plan.clients:
        weights = merged(asked.plan, asked.blocks, of_client(state, asked.blocks, own.get(client, {})))
        for name, (total,) in asked.host.evaluate(weights, [client]).items():
            if name != "examples":
                columns.setdefault(f"personal_{name}", []).append(total)
    return columns


def _kept_here(host: Host, message: Message, context: Context) -> NodeOwn:
    replica = replica_of(host.initial, context)
    return NodeOwn(context.state, replica.folder, own_state.filed_under(message.content, replica.run))


@dataclass(frozen=True)
class _Asked:
    """What the server asks for, whether it is to train or to test.

    Attributes:
        plan: as it was sent.
        host: serves all its clients.
        blocks: the trained parameters that it describes.
    """

    plan: RoundPlan
    host: Host
    blocks: Sequence[Block]

    @classmethod
    def read(cls, message: Message, context: Context) -> "_Asked":
        plan = decode_plan(message.content)
        host = host_of(plan.spec.workload, context)
        host.check_served(plan.clients)
        return cls(plan, host, host.blocks(plan))

    @property
    def own_shapes(self) -> Shapes:
        """Of all that stays with a client."""
        return own_shapes(self.blocks, self.plan.spec.method.at(self.plan.spec.round))

    def own(self, message: Message, context: Context, round_: int) -> Own:
        """By client, what has stayed with it before ``round_``."""
        if not self.own_shapes:
            return {}
        if self.host.is_own:
            (client,) = self.plan.clients
            return {client: _kept_here(self.host, message, context).before(round_)}
        sent = find(message.content, own_state.NAME, ArrayRecord)
        return own_state.decode(sent, self.own_shapes, self.plan.clients) if sent else {}

    def follow(self, context: Context) -> tuple[ServerState, bool]:
        """The state that the plan starts from, and whether the node keeps it."""
        return follow(self.plan, self.blocks, replica_of(self.host.initial, context))


def _check_ranks(asked: _Asked, most: int) -> None:
    """Raises ValueError where a client would train more than the node can (``rank`` of its config)."""
    whole = [block.rank for block in asked.blocks if block.rank is not None]
    wanted = max(asked.plan.ranks.values() or whole, default=0)
    if most and wanted > most:
        raise told(ValueError(f"rank {wanted} is asked of a node with rank={most} in its config: set method.ranks"))


def _protected(
    plan: RoundPlan, blocks: Sequence[Block], state: ServerState, reply: Reply, ledger: Ledger, policy: Policy
) -> Reply:
    """The reply with the node's own clipping and noise; what the noise costs is in the node's log."""
    if (method := plan.spec.method).sends_controls:
        raise Refused(f"{method.name} has clients send more than an update, which is all that is bounded here", "clip")
    if policy.noise:
        log.warning("this node has spent epsilon %.3g at delta %.1g", ledger.spend(policy), policy.delta)
    return protected(reply, _space(plan, blocks, state), policy)


def _coding(plan: RoundPlan, blocks: Sequence[Block], state: ServerState) -> Coding | None:
    """How what the clients found is sent."""
    spec, method = plan.spec, plan.spec.method.at(plan.spec.round)
    if plan.ranks:
        return RankedCoding(plan.ranks)
    if spec.bits.upload is None and method.method.densities is None:
        return None
    from_zero = method.merge and method.train != "both"
    sketches = {} if from_zero else _sketches(plan, blocks, state)
    return CodedRound(spec.sketch.seed, spec.round, blocks, method, sketches, state).uploads(spec.bits.upload)


def _space(plan: RoundPlan, blocks: Sequence[Block], state: ServerState) -> UpdateVectors:
    """In which updates are measured."""
    method = plan.spec.method.at(plan.spec.round)
    return UpdateVectors(blocks, method, _sketches(plan, blocks, state), state.factors)


def _sketches(plan: RoundPlan, blocks: Sequence[Block], state: ServerState) -> Mapping[str, Tensor]:
    spec = plan.spec
    return plan.sketches or draw_sketches(blocks, spec.method, spec.sketch, spec.round, state.basis).values
