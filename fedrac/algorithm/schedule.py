"""Learning rates and server steps over rounds: a schedule runs over the whole run and never restarts in a round."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Shape = Literal["constant", "linear", "cosine", "inverse"]
OF_THE_END = ("linear", "cosine")  # shapes that follow from the number of rounds


@dataclass(frozen=True)
class ScheduleSpec:
    """How a step size changes over rounds.

    Attributes:
        shape: ``constant``; ``linear`` or ``cosine`` from 1 towards ``final`` at the end; ``inverse``:
            ``1 / (1 + decay (t - 1))`` in round t, the decrease that removes the sampling floor of the theory.
        warmup: rounds over which the factor first rises linearly to 1.
        final: what ``linear`` and ``cosine`` would reach one round after the last.
        decay: of ``inverse``, per round.

    Raises:
        ValueError: a value is out of its range.
    """

    shape: Shape = "constant"
    warmup: int = 0
    final: float = 0.0
    decay: float = 0.1

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"schedule.shape={self.shape!r} is unknown: choose one of {', '.join(get_args(Shape))}")
        if self.warmup < 0:
            raise ValueError(f"schedule.warmup={self.warmup} must not be negative")
        if not 0 <= self.final <= 1:
            raise ValueError(f"schedule.final={self.final} must lie in [0, 1]")
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"schedule.decay={self.decay} must be finite, and not negative")

    def factor(self, round_: int, rounds: int | None) -> float:
        """What the step size is multiplied by in ``round_``; always positive.

        Args:
            round_: from 1; or 0, which no schedule changes but by its shape.
            rounds: the last round's number; None: not known.

        Raises:
            ValueError: the shape follows from the number of rounds, and it is not known.
        """
        if rounds is None and self.shape in OF_THE_END:
            raise ValueError(
                f"schedule.shape={self.shape} needs the number of rounds, which Flower's Strategy.start does not tell: "
                "call start of FedRacLora, or set the strategy's attribute rounds"
            )
        last = rounds or round_
        if 0 < round_ <= self.warmup:
            return round_ / (self.warmup + 1)
        passed = (round_ - 1 - self.warmup) / max(last - self.warmup, 1)
        if self.shape == "linear":
            return 1 - (1 - self.final) * passed
        if self.shape == "cosine":
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * passed)) / 2
        if self.shape == "inverse":
            return 1 / (1 + self.decay * (round_ - 1 - self.warmup))
        return 1.0
