"""What all rounds of a run follow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fedrac.aggregation.guard import GuardSpec
from fedrac.aggregation.secure_grid import SecureGrid, SecureSpec, grid_of
from fedrac.algorithm import returned
from fedrac.algorithm.blocks import Block, check_personal, sent_shapes
from fedrac.algorithm.controlled import Controlled
from fedrac.algorithm.method import Method, RoundMethod
from fedrac.algorithm.rounding import BitsSpec
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.sketch import SketchSpec
from fedrac.protocol.replay import Replay
from fedrac.training.optimizer import LocalSpec

Send = Literal["seed", "matrix"]
TestClients = bool | int | Literal["all"]  # none, the round's cohort, so many, or every client


@dataclass(frozen=True)
class RoundSettings:
    """What all rounds of a run follow; see `fedrac.flower.strategy.FedRacLora`.

    Attributes:
        workload, blocks, method, sketch, local, local_schedule, server, guard, secure, bits, send_sketch: as the
            strategy has them.
        test_clients: who tests, `FedRacLora`'s ``evaluate_on_clients``.
        rounds: the last round's number; None: not known, as Flower's own ``Strategy.start`` does not tell it.
        bytes_before: up and down, before round 1, which reports them.

    Raises:
        ValueError: a choice is unknown, or does not go with another one; or updates do not fit on the grid on which
            they are added up.
    """

    workload: Mapping[str, Any]
    method: Method
    blocks: Sequence[Block]
    sketch: SketchSpec
    local: LocalSpec
    local_schedule: ScheduleSpec
    server: ServerSpec
    guard: GuardSpec
    secure: SecureSpec
    bits: BitsSpec
    send_sketch: Send
    test_clients: TestClients
    rounds: int | None
    bytes_before: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.local.precondition and self.method.train == "both":
            raise ValueError(
                "local.precondition=true needs a frozen sketch, but method.train=both trains the two factors: "
                "set local.precondition=false"
            )
        if self.send_sketch not in get_args(Send):
            raise ValueError(f"sketch.send={self.send_sketch!r} is unknown: choose seed or matrix")
        tested = self.test_clients
        if tested is not True and tested is not False and tested != "all" and tested < 1:
            raise ValueError(f"evaluate.on_clients={tested} must be true, false, all, or a number of at least 1")
        self.guard.check(self.method, self.server.weighting, self.server.least_clients, self.server.selection)
        testers = self.server.cohort_size if tested is True else math.inf if tested == "all" else int(tested)
        self.secure.check(self.guard, self.method, self.server, testers)
        if self.secure.enabled and self.bits.upload is not None:
            raise ValueError(
                f"upload.bits={self.bits.upload} with secure_aggregation.enabled=true: under masks all updates lie on "
                "one grid already, and a scale of each client's own would tell what they hide. Set upload.bits=null"
            )
        check_personal(self.blocks, self.method)
        if isinstance(self.method, Controlled):
            self._check_controlled(self.method)
        if self.method.has_ranks and (self.bits.upload is not None or self.secure.enabled or self.guard.active):
            raise ValueError(
                "method.ranks: clients of different rank cannot be compared, nor added up, entry by entry: set "
                "upload.bits=null, guard.mean=mean, guard.clip=null and secure_aggregation=off"
            )
        if self.method.densities is not None:
            self._check_sparse()
        for number in range(1, self.method.period + 1):
            self.grid(returned.of_round(self.method, number))

    def _check_sparse(self) -> None:
        if self.secure.enabled or self.bits != BitsSpec():
            raise ValueError(
                f"{self.method.name}: every client sends other entries, and whole numbers, which can neither be added "
                "up under masks nor be rounded: set secure_aggregation=off upload.bits=null download.bits=null"
            )
        if all(block.rank is None for block in self.blocks):
            raise ValueError(f"{self.method.name}: adapt.layers names nothing of low rank, whose factors could be sent")

    def _check_controlled(self, method: Controlled) -> None:
        if self.guard.active or self.secure.enabled:
            raise ValueError(f"{method.name}: guard and secure_aggregation are for methods without controls of clients")
        if method.sends_controls and (self.local.optimizer != "sgd" or self.local.momentum or self.local.precondition):
            raise ValueError(
                f"{method.name}: a client's control is a mean of gradients, made of how far it went: set "
                "local.optimizer=sgd local.momentum=0 local.precondition=false"
            )

    def replay(self) -> Replay:
        """Makes the rounds' steps again."""
        return Replay(self.blocks, self.method, self.sketch, self.bits.download, self.server.average)

    def factor(self, schedule: ScheduleSpec, number: int) -> float:
        """What a step size is multiplied by in round ``number``; see `ScheduleSpec.factor`."""
        return schedule.factor(number, self.rounds)

    def grid(self, method: RoundMethod) -> SecureGrid | None:
        """That of a round in which the method does this; None where the server sees each update."""
        if not self.secure.enabled:
            return None
        entries = sum(math.prod(shape) for shape in sent_shapes(self.blocks, method).values())
        return grid_of(self.secure, self.guard, self.server.cohort_size, self.server.least_clients, entries)
