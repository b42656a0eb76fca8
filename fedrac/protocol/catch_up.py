"""The server's step, made again on a host: from the round's means and the sketch that follows from the seed."""

from collections.abc import Sequence

from flwr.app import Context
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.server import advance, effective_weights, mean_shapes
from fedrac.algorithm.state import ServerState
from fedrac.protocol.messages import RoundPlan, unpack
from fedrac.protocol.node_config import MEMORY, NodeConfig
from fedrac.protocol.node_state import Initial, NodeState
from fedrac.protocol.state_log import Step


def follow(plan: RoundPlan, blocks: Sequence[Block], replica: NodeState) -> tuple[ServerState, bool]:
    """The state that ``plan`` starts from, and whether the node keeps it.

    Args:
        plan: as the server sent it.
        blocks: the trained parameters that it describes.
        replica: what the node has.

    Raises:
        CannotRebuild: the node needs more than was sent.
    """
    method = plan.spec.method

    def make(state: ServerState, step: Step) -> ServerState:
        at = method.at(step.round)
        sketches = draw_sketches(blocks, method, plan.spec.sketch, step.round).values
        return advance(state, blocks, at, sketches, unpack(step.means, mean_shapes(blocks, at)), step.eta)

    return replica.follow(plan.update, make)


def merged(plan: RoundPlan, blocks: Sequence[Block], state: ServerState) -> dict[str, Tensor]:
    """The model as it predicts in ``state``, by name in its state dict (the shapes of that), in the master dtype."""
    sketches = plan.sketches
    if state.factors and not sketches:
        sketches = draw_sketches(blocks, plan.spec.method, plan.spec.sketch, max(state.round, 1)).values
    return effective_weights(state, blocks, sketches)


def replica_of(initial: Initial, context: Context) -> NodeState:
    """Where this node keeps its state: ``state`` of its node-config.

    A folder; ``memory``; or nowhere, if it is empty. Unless told, a node with data of its own keeps it in the cache;
    one that shares common data, as in a simulation, keeps nothing.
    """
    node, run = NodeConfig.read(context.node_config), f"{context.run_id:x}"
    if node.state == MEMORY:
        return NodeState(initial, None, True, run)
    keeps = node.state or (node.data and node.state is None)
    return NodeState(initial, node.folder if keeps else None, False, run)
