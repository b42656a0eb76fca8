"""What was measured of one side."""

import statistics
from dataclasses import dataclass, field


@dataclass
class Series:
    """The rounds of one side.

    Attributes:
        group, name: where it was measured; workload and side.
        threads: of torch (with Flower: cores of each client process), the fastest in ``trial`` (seconds a round).
        first: seconds from the start of the processes to the end of the first round.
        seconds, examples: of every steady round, a list for each repetition.
        resident, private: the largest memory in bytes, all of it and without mapped files.
    """

    group: str
    name: str
    threads: int = 1
    trial: dict[int, float] = field(default_factory=dict)
    first: list[float] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)
    examples: list[list[int]] = field(default_factory=list)
    resident: int = 0
    private: int = 0

    def add(self, seconds: list[float], examples: list[int]) -> None:
        """One more repetition."""
        self.seconds.append(seconds)
        self.examples.append(examples)

    def per_repetition(self, per_example: bool = False) -> list[float]:
        """Median seconds of a round, or the seconds for one example, in each repetition."""
        if per_example:
            return [sum(s) / sum(n) for s, n in zip(self.seconds, self.examples, strict=True)]
        return [statistics.median(rounds) for rounds in self.seconds]
