"""Round 0 of a run whose basis its clients find (`fedrac.algorithm.range_finder`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from flwr.app import MessageType
from flwr.serverapp import Grid
from torch import Tensor

from fedrac.algorithm.range_finder import ROUND, RangeFinder, blocks_of, rows_of
from fedrac.algorithm.rounding import BitsSpec
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.server import initial_state
from fedrac.algorithm.simulated_time import SystemSpec
from fedrac.algorithm.sketch import SketchSpec
from fedrac.algorithm.state import GuardState
from fedrac.flower.round_settings import RoundSettings
from fedrac.flower.rounds import Rounds
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.resending import deliver
from fedrac.training.optimizer import LocalSpec


@dataclass(frozen=True)
class FoundBasis:
    """What round 0 has found.

    Attributes:
        basis: by `Block.key`, the fixed rows of R, (k0, n) float64.
        guard: what clipping and noise carry on to round 1, the privacy spent included.
        upload_bytes, download_bytes: as of `RoundReport`.
    """

    basis: Mapping[str, Tensor]
    guard: GuardState
    upload_bytes: int
    download_bytes: int


def find(strategy: FedRacLora, start: Mapping[str, Tensor], grid: Grid, timeout: float) -> FoundBasis:
    """Makes round 0 with the clients that a strategy is connected to.

    Args:
        start: the weights before round 1.
        timeout: seconds to wait for the clients.

    Raises:
        CohortFailure: too few clients have answered well.
    """
    settings = _settings(strategy)
    state = initial_state(start, settings.blocks, settings.method, settings.sketch)
    rounds = Rounds(settings, strategy.connected, start, state)
    ask = partial(deliver, grid, timeout=timeout)
    round_ = rounds.open(rounds.begin(ROUND, state), ask)
    replies = deliver(grid, rounds.messages(round_, MessageType.TRAIN), timeout, partial(rounds.more, round_))
    factors = (after := rounds.finish(round_, replies, ask)).factors
    basis = {b.key("A"): rows_of(b, factors[b.key("A")], settings.sketch.seed) for b in strategy.blocks if b.fixed}
    return FoundBasis(basis, after.guard, round_.report.upload_bytes, round_.report.download_bytes)


def _settings(strategy: FedRacLora) -> RoundSettings:
    """As those of the run, of which round 0 takes the cohort, the guard and the masks."""
    server = replace(strategy.server, eta=1.0, schedule=ScheduleSpec(), average=None, system=SystemSpec())
    return RoundSettings(
        workload=strategy.workload, method=RangeFinder(), blocks=blocks_of(strategy.blocks),
        sketch=SketchSpec("gaussian", strategy.sketch.seed), local=_whole_gradient(strategy.local),
        local_schedule=ScheduleSpec(), server=server, guard=strategy.guard, secure=strategy.secure, bits=BitsSpec(),
        send_sketch=strategy.send_sketch, test_clients=False, rounds=ROUND,
    )  # fmt: skip


def _whole_gradient(local: LocalSpec) -> LocalSpec:
    """One step of size 1 along it."""
    step = replace(local, optimizer="sgd", lr=1.0, epochs=1, sampling="full", precondition=False)
    return replace(step, momentum=0.0, weight_decay=0.0, l2=0.0, clip=None)
