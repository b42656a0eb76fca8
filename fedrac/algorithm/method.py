"""The family of methods as four choices, and what the server makes of a round's mean.

=====================  ========  =======  =======  ==========
method                 train     fresh    merge    average
=====================  ========  =======  =======  ==========
Fed-RAC-LoRA           factor    yes      yes      factors
Two-sided              factor    yes      yes      factors
Fed-SB                 factor    no       no       factors
AsymmLoRA / FFA-LoRA   factor    no       no       factors
FedAvg-LoRA (FedIT)    both      no       no       factors
FLASC                  both      no       no       factors
RoLoRA                 factor    no       no       factors
Fed-COLA               both      yes      yes      factors
FLoRA                  both      yes      yes      products
FedEx-LoRA             both      no       no       products
FedAvg                 full      yes      yes      factors
=====================  ========  =======  =======  ==========

A class of their own have HetLoRA, FlexLoRA and LoRA-FAIR (another mean; `fedrac.algorithm.hetlora` and so on), SCAFFOLD
and FedDyn (`fedrac.algorithm.controlled`). FLASC sends its factors sparsely (`fedrac.algorithm.flasc`). FedSA-LoRA is
FedAvg-LoRA with ``personal``.

FedProx (arXiv 1812.06127) is FedAvg with a proximal term in the local objective; every method takes one.
FedAvgM, FedAdam and FedYogi are FedAvg with a server optimizer (`fedrac.algorithm.server_optimizer`); every method but
FedEx-LoRA takes one.

The update of a matrix is ``s L Z R`` in all of them. ``side`` says which of L and R is a sketch; the other one is the
identity, and then the core Z is the factor A (r, n) or B (m, r) of LoRA. With ``side=both`` both are sketches, and the
core is (p, k): Two-sided, and Fed-SB (arXiv 2502.15436), where both stay as they are for the run.

Algorithm 1 of arXiv 2410.08305 (RAC-LoRA, no federation) is the case of one client.

A method of one's own is a frozen dataclass that derives from `Method` and has another `Method.at`, `Method.mean`,
`Method.step`, `Method.client_rank`, `Method.ranks_after` or `Method.local_gradient`, which are pure functions: settings
name its import path (``method._target_``). The first, the third and the last are also called on nodes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, get_args

from torch import Tensor

from fedrac.algorithm.means import Cohort, mean_of, mean_of_products
from fedrac.algorithm.server_optimizer import ServerOptimizer
from fedrac.algorithm.sketch import Side
from fedrac.algorithm.sparse import Densities
from fedrac.algorithm.streams import Stream

RoundSide = Side | Literal["both"]
Sides = Literal["left", "right", "alternate", "alternate_right", "both"]
Train = Literal["factor", "both", "full"]
Average = Literal["factors", "products"]

# The sides of the first rounds, after which they begin anew.
_SIDES: dict[Sides, tuple[RoundSide, ...]] = {
    "left": ("left",),
    "right": ("right",),
    "alternate": ("left", "right"),
    "alternate_right": ("right", "left"),
    "both": ("both",),
}


@dataclass(frozen=True)
class Method:
    """One method of federated fine-tuning.

    Attributes:
        name: how the literature calls it; for tables and figures only.
        train: ``factor`` trains the factor opposite to the sketch, or the core between two of them; ``both`` trains
            B and A, ``full`` the whole matrix.
        side: which factor is drawn at random: B (``left``), A (``right``), or B in odd rounds and A in even ones
            (``alternate``; ``alternate_right``: A in odd rounds). The other one starts at zero. Without merging, RoLoRA
            (arXiv 2409.02346): both are carried on, and the one that is frozen is where the last round left it.
            ``both``: B and A are frozen, and a core between them is trained. What holds in a round, `at` says.
        fresh: the random factor is drawn anew every round; otherwise once for the run. What is taken from a basis
            (`fedrac.algorithm.round_start.draw_sketches`) stays in either case.
        merge: the product goes into the weights every round and the factors start again (the chain); otherwise
            the averaged factors are carried to the next round.
        average: ``factors`` averages each factor; ``products`` makes the new model the mean of the clients' models,
            which differs if both factors are trained (section 4.1: by the covariance of the factors).
        optimizer: of the server, over merged updates, or over carried factors; a mapping of its settings is taken, too.
            None: the step ``eta'`` alone.
        ranks: of clients: each draws one of these once for the run, from the stream ``rank``, and has no more than its
            own (``rank`` in ``system.table`` or in a node's config); with none to draw from, its own alone. A client
            of rank r_c trains the first r_c columns of the sketch (`fedrac.algorithm.client_ranks`). None: all
            clients train whole factors.
        personal: patterns of what stays with each client, e.g. ``*:B`` or ``head.*``, of trained factors' `Block.key`.
            A client goes on from where it left them; they are neither sent nor averaged.
        prox: mu of FedProx: a client's objective has ``mu/2 |F - F_0|^2`` for every factor F that it trains, where F_0
            is the round's start. 0: it has not.

    Raises:
        ValueError: a choice is unknown, or two of them contradict one another.
    """

    name: str = "Fed-RAC-LoRA"
    train: Train = "factor"
    side: Sides = "left"
    fresh: bool = True
    merge: bool = True
    average: Average = "factors"
    optimizer: ServerOptimizer | None = None
    prox: float = 0.0
    ranks: tuple[int, ...] | None = None
    personal: tuple[str, ...] = ()

    # Of a class of methods: whether clients keep controls, and send their changes (`fedrac.algorithm.controlled`).
    keeps_controls: ClassVar[bool] = False
    sends_controls: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, Mapping):  # as it comes from JSON or YAML
            object.__setattr__(self, "optimizer", ServerOptimizer(**self.optimizer))
        for field, value, known in (
            ("train", self.train, get_args(Train)),
            ("side", self.side, get_args(Sides)),
            ("average", self.average, get_args(Average)),
        ):
            if value not in known:
                raise ValueError(f"method.{field}={value!r} is unknown: choose one of {', '.join(known)}")
        if not 0 <= self.prox < math.inf:
            raise ValueError(f"method.prox={self.prox} must not be negative, nor infinite")
        if wrong := [rank for rank in self.ranks or () if rank < 1]:
            raise ValueError(f"method.ranks={list(self.ranks or ())}: {wrong[0]} is no rank, which is at least 1")
        if self.has_ranks and self.train == "full":
            raise ValueError("method.train=full has no factors that clients could have different ranks of: ranks=null")
        if self.average == "products" and self.train != "both":
            raise ValueError(
                f"method.average=products with method.train={self.train} is the same as averaging factors, because "
                "all clients share the other factor: set method.average=factors"
            )
        if self.side == "both" and self.train == "both":
            raise ValueError("method.side=both freezes both factors: method.train=both has nothing frozen, set factor")
        if self.train == "full" and not self.merge:
            raise ValueError("method.train=full has no factors to carry: set method.merge=true")
        if self.fresh and not self.merge:
            raise ValueError("method.fresh=true needs method.merge=true: a carried factor belongs to its old sketch")
        if len(self.sides) > 1 and not self.merge and self.train == "both":
            raise ValueError(
                f"method.side={self.side} needs method.merge=true, or method.train=factor, which is RoLoRA"
            )
        if not self.steps_plainly and self.average == "products" and not self.merge:
            named = f".name={self.optimizer.name}" if self.optimizer else "=null and a step of the method's own"
            raise ValueError(
                f"method.optimizer{named} with factors that are carried, but averaged as products: "
                "set method.merge=true, or method.average=factors, or method.optimizer=null"
            )
        if self.densities is not None:
            self._check_sparse()

    def _check_sparse(self) -> None:
        if self.merge or self.average == "products" or len(self.sides) > 1:
            raise ValueError(
                f"{self.name} sends factors that are carried on: set method.merge=false method.average=factors, and "
                "one method.side"
            )
        if self.has_ranks or self.personal:
            raise ValueError(
                f"{self.name}: the largest entries are those of all that every client trains: set method.ranks=null "
                "method.personal=[]"
            )

    @property
    def sides(self) -> tuple[RoundSide, ...]:
        """The sides that rounds have, in the order in which they first come."""
        return tuple(dict.fromkeys(self.at(number).side for number in range(1, self.period + 1)))

    @property
    def period(self) -> int:
        """Number of rounds after which `at` begins anew, but for the sketch."""
        return len(_SIDES[self.side])

    def at(self, round_: int) -> "RoundMethod":
        """What the method does in ``round_`` (from 1): all that the rest of the program asks of it."""
        sides = _SIDES[self.side]
        return RoundMethod(self, self.train, sides[(round_ - 1) % len(sides)], round_ if self.fresh else 1)

    def mean(self, factors: Mapping[str, Tensor], cohort: Cohort) -> Mapping[str, Tensor]:
        """What a round makes of the clients' factors of one parameter; computed by the server alone.

        Args:
            factors: by letter what was trained, (C, ...): ``A``, ``B``, ``A`` and ``B``, ``Z``, or ``D``.
            cohort: whose they are.

        Returns:
            By the same letters a mean of each, (...), floating-point. Of ``A`` and ``B`` with ``average=products``
            also the product ``BA`` (..., m, n); this one alone, if it is merged.
        """
        products = self.average == "products" and factors.keys() == {"A", "B"}
        found = {x: mean_of(x, each, cohort) for x, each in factors.items() if not (products and self.merge)}
        return {**found, "BA": mean_of_products(factors, cohort.shares)} if products else found

    def step(self, key: str, update: Tensor, moments: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """How far the server goes for eta' = 1; the same bits wherever it is computed.

        Args:
            key: of what is updated: a weight, or a factor that is carried.
            update: the mean update, in its shape, in the master dtype.
            moments: what earlier steps carried on, by name; those of this ``key`` begin with ``key/``.

        Returns:
            The step, as ``update``; and what is carried on, as ``update`` each, under names that begin with ``key/``.
        """
        return (update, {}) if self.optimizer is None else self.optimizer.step(key, update, moments)

    def client_rank(self, client: int, seed: int) -> int | None:
        """The rank of a client, in all rounds; None: that of each layer. Computed by the server alone.

        Args:
            client: its id.
            seed: of the run, for a `Stream`.
        """
        return self.ranks[Stream(seed, "rank", client).below(len(self.ranks))] if self.ranks else None

    def ranks_after(
        self, ranks: Sequence[int], start: Mapping[str, Tensor], found: Mapping[str, Tensor]
    ) -> Sequence[int]:
        """The ranks that the clients of a round have from now on, no larger than before; computed by the server alone.

        What a client has trained beyond its new rank does not count.

        Args:
            ranks: those that they had, (C,).
            start: by `Block.key`, the carried factors that the round started from, (...).
            found: by `Block.key`, what they found, (C, ...), zero beyond a client's rank.
        """
        return ranks

    def local_gradient(self, factors: Mapping[str, Tensor], ranks: Sequence[int] | None) -> Mapping[str, Tensor]:
        """The gradient of what the method adds to the objective of clients, asked for at every step, where they train.

        Args:
            factors: by letter, what is trained of one parameter, (C, ...).
            ranks: of the clients, (C,), where they differ.

        Returns:
            By letter, what is added to the gradients of some of them, (C, ...); empty: nothing.
        """
        return {}

    def is_personal(self, key: str) -> bool:
        """Whether a factor (`Block.key`) stays with each client."""
        return any(fnmatchcase(key, pattern) for pattern in self.personal)

    @property
    def densities(self) -> Densities | None:
        """Which share of the factors' entries is sent, the largest ones; None: all, as they are."""
        return None

    @property
    def has_ranks(self) -> bool:
        """Whether clients differ in rank."""
        return self.ranks is not None or self.has_own("client_rank")

    def has_own(self, function: str) -> bool:
        """Whether a function, e.g. ``mean``, is another one than that of this class."""
        return getattr(type(self), function) is not getattr(Method, function)

    @property
    def steps_plainly(self) -> bool:
        """Whether `step` is the update itself. Then no matrix as large as a weight is made for it."""
        return self.optimizer is None and not self.has_own("step")


@dataclass(frozen=True)
class RoundMethod:
    """What a method does in one round.

    Attributes:
        method: which it is.
        train: ``factor`` or ``both``; ``full`` where the method has it in every round.
        side: which factor is frozen in this round.
        sketch_round: the round that names the random factor: this one, or 1 if it is drawn once for the run.
    """

    method: Method
    train: Train
    side: RoundSide
    sketch_round: int

    @property
    def merge(self) -> bool:
        """As of `Method`."""
        return self.method.merge

    @property
    def average(self) -> Average:
        """As of `Method`."""
        return self.method.average

    @property
    def prox(self) -> float:
        """As of `Method`."""
        return self.method.prox
