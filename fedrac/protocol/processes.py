"""Whether a process answers one message or many. Imports nothing, so that Flower's processes start fast."""

import sys

_stays = False


def simulated() -> bool:
    """Whether this process is one of Flower's simulation: a worker of Ray. No message can make it one."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def stay() -> None:
    """Says that this process answers many messages of its node."""
    global _stays
    _stays = True


def stays() -> bool:
    """Whether the next message of a node of this kind is likely to come to a process that has answered others."""
    return _stays or simulated()
