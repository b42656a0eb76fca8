"""What is trained, by name: the section ``adapt`` of the configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Rank = int | str | tuple[int, int]  # an integer, ``full`` or ``frozen``; (p, k) of a two-sided update
Basis = Literal["inputs", "clients", "cosine", "random", "weights"]


@dataclass(frozen=True)
class AdaptSpec:
    """What is trained, by name.

    Attributes:
        layers: pattern of layer names (shell style, ``*`` matches any) to a rank: an integer, ``full``, or
            ``frozen``; with ``method.side=both`` also a pair of rank and ``columns``, (p, k). Where several patterns
            match, the last one counts. Layers that none matches are frozen.
            ``all-linear`` matches every Linear layer but those of a model's ``heads``.
        full: patterns of the names of parameters (biases, norms, heads) that are trained in full, whatever ``layers``
            says of them.
        alpha: scale; the update of a layer is ``(alpha / rank) B A``.
        rslora: the update is ``(alpha / sqrt(rank)) B A`` (arXiv 2312.03732), which keeps its size as the rank grows.
        columns: k, rows of R in the update ``s L Z R`` of ``method.side=both``; the rank is p, columns of L. A side
            that would be as long as the matrix is the identity.
        basis: where the rows of R come from that are fixed for the run: ``inputs`` (the main directions of the layer's
            inputs on data that no client has), ``clients`` (of their mean gradient, in a round before the first:
            `fedrac.algorithm.range_finder`), ``cosine``, ``random``, or ``weights`` (its singular vectors, and L's, as
            in LoRA-XS, arXiv 2405.17604). None: R is drawn by the law of the sketch, as L is.
        fresh_columns: k1, how many rows of R are drawn anew in every round, in the complement of its basis.

    Raises:
        ValueError: a rank is none of these, or ``alpha``, ``columns`` or ``fresh_columns`` is out of its range.
    """

    layers: Mapping[str, Rank] = field(default_factory=lambda: {"*": 1})
    full: Sequence[str] = ()
    alpha: float = 1.0
    rslora: bool = False
    columns: int | None = None
    basis: Basis | None = None
    fresh_columns: int = 0

    def __post_init__(self) -> None:
        for pattern, rank in self.layers.items():
            whole = rank if isinstance(rank, tuple) else () if rank in ("full", "frozen") else (rank,)
            if any(isinstance(number, bool) or not isinstance(number, int) or number < 1 for number in whole):
                raise ValueError(
                    f"rank {rank!r} of layers {pattern!r}: give an integer >= 1, 'full' or 'frozen'; or two integers, "
                    "[p, k], of a two-sided update"
                )
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"adapt.alpha={self.alpha} must be positive and finite")
        if self.columns is not None and self.columns < 1:
            raise ValueError(f"adapt.columns={self.columns} must be at least 1, or null for all of a matrix's columns")
        columns = [rank[1] for rank in self.layers.values() if isinstance(rank, tuple)]
        columns += [self.columns] if self.columns is not None else []
        if self.basis is not None and (self.basis not in get_args(Basis) or not columns):
            raise ValueError(
                f"adapt.basis={self.basis!r}: choose one of {', '.join(get_args(Basis))}, with adapt.columns, or null"
            )
        if not 0 <= self.fresh_columns < min(columns, default=1) or (self.fresh_columns and self.basis is None):
            raise ValueError(
                f"adapt.fresh_columns={self.fresh_columns} must be less than adapt.columns={self.columns} and every k "
                "of adapt.layers, and goes with adapt.basis only: without one all columns are drawn anew"
            )

    def scale(self, rank: int) -> float:
        """``s`` of an update of this rank."""
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)
