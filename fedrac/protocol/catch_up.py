"""How a host comes to the server's state, and where it keeps it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from flwr.app import Context
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.state import ServerState
from fedrac.loading.told import told
from fedrac.protocol.messages import RoundPlan
from fedrac.protocol.node_config import MEMORY, NodeConfig
from fedrac.protocol.node_state import Initial, NodeState
from fedrac.protocol.processes import stays
from fedrac.protocol.replay import Replay
from fedrac.protocol.sparse import decode_start


def follow(plan: RoundPlan, blocks: Sequence[Block], replica: NodeState) -> tuple[ServerState, bool]:
    """The state that ``plan`` starts from, and whether the node keeps it.

    Args:
        plan: as the server sent it.
        blocks: the trained parameters that it describes.
        replica: what the node has.

    Raises:
        CannotRebuild: the node needs more than was sent.
        ValueError: the factors that the round starts from are due, and were not sent.
    """
    state, kept = replica.follow(plan.update, partial(_replay(plan, blocks).advance, room=replica.room))
    if (densities := plan.spec.method.densities) is None:
        return state, kept
    if plan.start is None:
        raise told(ValueError("the factors that the round starts from are missing"))
    at, dtype = plan.spec.method.at(plan.spec.round), state.weights[blocks[0].name].dtype
    return replace(state, factors=decode_start(plan.start, blocks, at, densities.download, dtype)), kept


def merged(plan: RoundPlan, blocks: Sequence[Block], state: ServerState) -> dict[str, Tensor]:
    """The model as it predicts in ``state``, by name in its state dict (the shapes of that), in the master dtype."""
    return _replay(plan, blocks).merged(state, plan.sketches)


def _replay(plan: RoundPlan, blocks: Sequence[Block]) -> Replay:
    return Replay(blocks, plan.spec.method, plan.spec.sketch, plan.spec.bits.download)


def replica_of(initial: Initial, context: Context) -> NodeState:
    """Where this node keeps its state: ``state`` of its node-config.

    A folder; ``memory``; or nowhere, if it is empty. Unless told, a node with data of its own keeps it in the cache;
    one that shares common data keeps no file. A process that stays has it in memory besides, unless ``state`` is
    empty.
    """
    node, run = NodeConfig.read(context.node_config), f"{context.run_id:x}"
    if node.state == MEMORY:
        return NodeState(initial, None, True, run)
    keeps = node.state or (node.data and node.state is None)
    return NodeState(initial, node.folder if keeps else None, node.state != "" and stays(), run)
