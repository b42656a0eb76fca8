"""What is trained, by name: the section ``adapt`` of the configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Rank = int | str  # an integer, ``full`` or ``frozen``


@dataclass(frozen=True)
class AdaptSpec:
    """What is trained, by name.

    Attributes:
        layers: pattern of layer names (shell style, ``*`` matches any) to a rank: an integer, ``full``, or
            ``frozen``. Where several patterns match, the last one counts. Layers that none matches are frozen.
            ``all-linear`` matches every Linear layer but those of a model's ``heads``.
        full: patterns of the names of parameters (biases, norms, heads) that are trained in full, whatever ``layers``
            says of them.
        alpha: scale; the update of a layer is ``(alpha / rank) B A``.

    Raises:
        ValueError: a rank is none of these, or ``alpha`` is not positive.
    """

    layers: Mapping[str, Rank] = field(default_factory=lambda: {"*": 1})
    full: Sequence[str] = ()
    alpha: float = 1.0

    def __post_init__(self) -> None:
        for pattern, rank in self.layers.items():
            if rank not in ("full", "frozen") and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
                raise ValueError(f"rank {rank!r} of layers {pattern!r}: give an integer >= 1, 'full' or 'frozen'")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"adapt.alpha={self.alpha} must be positive and finite")
