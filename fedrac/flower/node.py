"""A Flower node: which host it is, and how its functions answer."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedrac.flower.host import Host, reason_of
from fedrac.protocol import node_state
from fedrac.protocol.node_config import NodeConfig
from fedrac.protocol.node_state import CannotRebuild
from fedrac.protocol.replies import encode_lack

log = logging.getLogger(__name__)

Answer = Callable[[Message, Context], RecordDict]


@lru_cache(maxsize=2)
def _loaded(workload: str) -> Host:
    return Host(json.loads(workload), 0, 1)


@lru_cache(maxsize=2)
def _own_hosts(workload: str) -> dict[NodeConfig, Host]:
    """Those that were loaded in this process: an in-process run has as many as it has nodes."""
    return {}


def _loaded_own(workload: str, node: NodeConfig) -> Host:
    hosts = _own_hosts(workload)
    if node not in hosts:
        hosts[node] = Host(json.loads(workload), node.place, node.place + 1, node.data, node.tell_examples)
    return hosts[node]


def host_of(workload: Mapping[str, Any], context: Context) -> Host:
    """The host that this node is, as its node-config says; loaded once a process."""
    node = NodeConfig.read(context.node_config)
    if node.data is not None:
        return _loaded_own(json.dumps(workload), node)
    return _loaded(json.dumps(workload)).beside(node.place, node.count)


def forget() -> None:
    """Lets go of the hosts that were loaded in this process, and of the weights that are remembered for them."""
    _loaded.cache_clear()
    _own_hosts.cache_clear()
    node_state.forget()


def answering(answer: Answer) -> Callable[[Message, Context], Message]:
    """A ClientApp function from one that returns content: what it raises becomes the answer's reason, and is logged."""

    @wraps(answer)
    def handle(message: Message, context: Context) -> Message:
        try:
            content = answer(message, context)
        except CannotRebuild as lack:
            content = encode_lack(str(lack))
        except Exception as error:
            content = RecordDict({"error": ConfigRecord({"reason": (reason := reason_of(error))})})
            log.error("the server is told: %s", reason)
        return Message(content, reply_to=message)

    return handle
