"""The server's step, made again on a host: from the round's means and the sketch that follows from the seed."""

from pathlib import Path

from flwr.app import Context
from torch import Tensor, nn

from fedrac.blocks import find_blocks
from fedrac.chain import Step
from fedrac.data import cache
from fedrac.messages import RoundPlan, unpack
from fedrac.replica import Initial, Replica
from fedrac.rounds import draw_sketches
from fedrac.server import ServerState, advance, effective_weights, mean_shapes

MEMORY = "memory"


def follow(plan: RoundPlan, model: nn.Module, replica: Replica) -> tuple[ServerState, bool]:
    """The state that ``plan`` starts from, and whether the node keeps it.

    Args:
        plan: as the server sent it.
        model: says which parameters there are; its values are not used.
        replica: what the node has.

    Raises:
        Lacks: the node needs more than was sent.
        ValueError: the model here is not the server's.
    """
    blocks, method = find_blocks(model, plan.spec.blocks), plan.spec.method
    shapes = mean_shapes(blocks, method)

    def make(state: ServerState, step: Step) -> ServerState:
        sketches = draw_sketches(blocks, method, plan.spec.sketch, step.round).values
        return advance(state, blocks, method, sketches, unpack(step.means, shapes), step.eta)

    return replica.follow(plan.update, make)


def merged(plan: RoundPlan, model: nn.Module, state: ServerState) -> dict[str, Tensor]:
    """The model as it predicts in ``state``, by parameter name."""
    blocks, sketches = find_blocks(model, plan.spec.blocks), plan.sketches
    if state.factors and not sketches:
        sketches = draw_sketches(blocks, plan.spec.method, plan.spec.sketch, max(state.round, 1)).values
    return effective_weights(state, blocks, plan.spec.method, sketches)


def replica_of(initial: Initial, context: Context) -> Replica:
    """Where this node keeps its state: ``state`` of its node-config.

    A folder; or ``memory``, where one process answers all of its messages. A node with data of its own keeps it in the
    cache unless told; one that shares common data, as in a simulation, keeps nothing.
    """
    config, run = context.node_config, f"{context.run_id:x}"
    if config.get("state") == MEMORY:
        return Replica(initial, None, True, run)
    if chosen := config.get("state"):
        return Replica(initial, Path(str(chosen)).expanduser(), False, run)
    own = cache.root() / "state" / f"node-{config['partition-id']}" if "data" in config else None
    return Replica(initial, own, False, run)
