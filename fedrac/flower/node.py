"""A Flower node: which host it is, what it allows, and how its functions answer."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from fedrac.data import standard
from fedrac.flower.host import Host, reason_of
from fedrac.loading import limits
from fedrac.loading.limits import Refused
from fedrac.loading.told import text_of, told
from fedrac.protocol import node_state, policy
from fedrac.protocol.ledger import Ledger
from fedrac.protocol.node_config import NodeConfig
from fedrac.protocol.node_state import CannotRebuild
from fedrac.protocol.policy import PolicyFile
from fedrac.protocol.replies import encode_lack

log = logging.getLogger(__name__)

Answer = Callable[[Message, Context], RecordDict]


@lru_cache(maxsize=2)
def _loaded(workload: str, tell_examples: int | None, least: int) -> Host:
    return Host(json.loads(workload), 0, 1, None, tell_examples, least)


@lru_cache(maxsize=2)
def _own_hosts(workload: str) -> dict[NodeConfig, Host]:
    """Those that were loaded in this process: an in-process run has as many as it has nodes."""
    return {}


def _loaded_own(workload: str, node: NodeConfig, tell_examples: int | None, least: int) -> Host:
    hosts = _own_hosts(workload)
    if node not in hosts:
        hosts[node] = Host(json.loads(workload), node.place, node.place + 1, node.data, tell_examples, least)
    return hosts[node]


def host_of(workload: Mapping[str, Any], context: Context) -> Host:
    """The host that this node is, as its node-config says; loaded once a process."""
    node, rules = NodeConfig.read(context.node_config), rules_of(context)
    if rules is not None:
        scale = workload["data"].get("standardize")  # may be agreed on in the run, once
        agreed = scale if isinstance(scale, dict) else None
        data = {**workload["data"], "standardize": standard.AGREED} if agreed else workload["data"]
        ledger_of(context).pin(json.dumps({**workload, "data": data}, sort_keys=True))
        if agreed:
            ledger_of(context).pin(json.dumps(agreed, sort_keys=True), "scale")
    tell = 1 if rules and rules.policy.noise else node.tell_examples
    least = rules.policy.least_examples if rules else 1
    if node.data is not None:
        return _loaded_own(json.dumps(workload), node, tell, least)
    return _loaded(json.dumps(workload), tell, least).beside(node.place, node.count)


def rules_of(context: Context) -> PolicyFile | None:
    """What this node allows; None: everything."""
    return policy.of_node(NodeConfig.read(context.node_config).policy)


def ledger_of(context: Context) -> Ledger:
    """What this node has done so far."""
    return Ledger(NodeConfig.read(context.node_config).folder / "ledger.json", context)


def forget() -> None:
    """Lets go of the hosts that were loaded in this process, and of the weights that are remembered for them."""
    _loaded.cache_clear()
    _own_hosts.cache_clear()
    node_state.forget()


def answering(answer: Answer) -> Callable[[Message, Context], Message]:
    """A ClientApp function from one that returns content: what it raises becomes the answer's reason, and is logged.

    What the node's policy does not allow is refused; of what else goes wrong, the server is told no more than
    `fedrac.loading.told` says.
    """

    @wraps(answer)
    def handle(message: Message, context: Context) -> Message:
        try:
            node, rules = NodeConfig.read(context.node_config), rules_of(context)
        except Exception as error:
            own_words = told(error) if isinstance(error, ValueError) and not hasattr(error, "told") else error
            log.error("%s", error)
            return Message(_refusal(text_of(own_words)), reply_to=message)
        with limits.within(rules.policy.limits(node.data) if rules else None):
            try:
                if rules is not None:
                    _admit(message, context, rules)
                content = answer(message, context)
            except CannotRebuild as lack:
                content = encode_lack(lack.reason, lack.offers)
            except Exception as error:
                place = f" ({rules.place(error.key)})" if isinstance(error, Refused) and rules else ""
                content = _refusal(reason_of(error) + place)
        return Message(content, reply_to=message)

    return handle


def _refusal(reason: str) -> RecordDict:
    log.error("the server is told: %s", reason)
    return RecordDict({"error": ConfigRecord({"reason": reason})})


def _admit(message: Message, context: Context, rules: PolicyFile) -> None:
    """Raises `Refused` if the node does not take such a message; tells its own people what it takes, once a run."""
    if not message.content:  # a sign of life
        return
    if ledger_of(context).count("messages", rules.policy.most_messages) == 1:
        print(f"run {context.run_id}: this node allows", *rules.policy.lines(), sep="\n  ", file=sys.stderr, flush=True)
    if message.metadata.message_type == MessageType.EVALUATE and not rules.policy.evaluate:
        raise Refused("the model is not tested here", "evaluate")
