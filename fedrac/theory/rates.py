"""Step sizes, rates and floors from theory, for convex problems with the projected step.

Gradient descent is Theorem 5.5 of arXiv 2410.08305. The rest has the form of its Theorem F.3 (local random reshuffling,
partial participation); the constants were derived for this project, and need not be the paper's.
"""

from dataclasses import dataclass
from math import inf, sqrt

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.method import Method, RoundMethod
from fedrac.algorithm.sketch import Law, expected_rank
from fedrac.experiment.settings import Experiment
from fedrac.theory.convex import Convex

_ROUNDED = 1 + 1e-5  # step sizes are printed with six digits


@dataclass(frozen=True)
class Setting:
    """What the theorems need to know of a configuration.

    Attributes:
        smoothness: L, of the functions that the local steps see.
        convexity: mu of f.
        between, within: Delta* and sigma* of Assumption F.1; within is 0 where a step sees all of a client's data.
        clients, cohort: M and C.
        batches, epochs: N, mini-batches in a client's data, and local epochs.
        slowest, fastest: smallest and largest eigenvalue of E[H], the mean projection of the sketch. Where the smallest
            is 0, all else is said of f restricted to what the updates reach.
    """

    smoothness: float
    convexity: float
    between: float
    within: float
    clients: int
    cohort: int
    batches: int
    epochs: int
    slowest: float
    fastest: float

    @property
    def steps(self) -> int:
        """K, local steps a round."""
        return self.batches * self.epochs

    @property
    def rho(self) -> float:
        """Client-sampling factor: 0 when all take part, 1 for a cohort of one."""
        return (self.clients - self.cohort) / (self.cohort * max(self.clients - 1, 1))

    @property
    def gradient_descent(self) -> bool:
        """Whether a round is one step along the exact gradient."""
        return self.steps == 1 and self.rho == 0

    @property
    def confined(self) -> bool:
        """Whether the updates stay in a subspace, so that Assumption 5.1 does not hold."""
        return self.slowest == 0

    @property
    def rate(self) -> float:
        """lam_min of the space that the updates reach."""
        return self.slowest or self.fastest

    @property
    def largest_gamma(self) -> float:
        """Local step size up to which the theorem holds."""
        if self.gradient_descent:
            return inf  # only eta counts
        ratio = self.convexity * self.rate / (12 * self.fastest * self.smoothness)
        return min(0.5, sqrt(ratio)) / (self.smoothness * self.steps)

    @property
    def largest_eta(self) -> float:
        """Server step size (in the space of W) up to which the theorem holds."""
        if self.rho == 0:
            return 1 / self.smoothness
        kappa = self.fastest / self.rate
        return min(1 / self.smoothness, self.convexity / (8 * kappa * self.smoothness**2 * self.rho))

    def predict(self, gamma: float, eta: float) -> "Prediction":
        """What the theorem promises for these step sizes, if they are admissible."""
        admissible = gamma <= self.largest_gamma * _ROUNDED and eta <= self.largest_eta * _ROUNDED
        if self.gradient_descent:
            return Prediction(admissible, 1 - eta * self.convexity * self.rate, 0.0, 0.0)
        kappa, big_l = self.fastest / self.rate, self.smoothness
        k = 1 + 2 * big_l * eta * self.rho
        spread = self.steps**2 * self.between + self.batches * self.within
        drift = 2 * kappa / self.convexity * k * big_l**3 * gamma**2 * spread
        sampling = 4 * kappa / self.convexity * big_l**2 * eta * self.rho * self.between
        return Prediction(admissible, 1 - eta * self.convexity * self.rate / 2, drift, sampling)


@dataclass(frozen=True)
class Prediction:
    """``E f(W^t) - f* <= rate^t (f(W^0) - f*) + drift + sampling``.

    Attributes:
        admissible: whether the theorem covers the step sizes.
        rate: contraction of a round.
        drift, sampling: the two parts of the floor: of several local steps, and of drawing clients.
    """

    admissible: bool
    rate: float
    drift: float
    sampling: float


def setting(experiment: Experiment, problem: Convex, blocks: tuple[Block, ...]) -> Setting:
    """The constants of a configuration.

    Raises:
        ValueError: no theorem covers its method, optimizer or sampling.
    """
    _check(experiment)
    local, cohort = experiment.local, experiment.cohort.size
    if cohort > problem.clients:
        raise ValueError(f"cohort.size={cohort} is larger than the population of {problem.clients} clients: lower it")
    full = local.sampling == "full" or local.batch_size >= problem.examples
    if not full and problem.examples % local.batch_size:
        raise ValueError(
            f"local.batch_size={local.batch_size} does not divide a client's {problem.examples} examples: the short "
            "mini-batch of every pass would count as much as a whole one, and the theorems are for passes that add up "
            f"to the client's gradient. Set a divisor of {problem.examples}, or local.sampling=full"
        )
    batches = 1 if full else -(-problem.examples // local.batch_size)
    descent = full and local.epochs == 1 and cohort == problem.clients
    rounds = [experiment.method.at(number) for number in range(1, experiment.method.period + 1)]
    spans = [eigenvalues(b, method, experiment.law) for b in blocks for method in rounds]
    return Setting(
        smoothness=problem.smoothness("f" if descent else "client" if full else "example"),
        convexity=problem.convexity,
        between=problem.between,
        within=0.0 if full else problem.within,
        clients=problem.clients,
        cohort=cohort,
        batches=batches,
        epochs=local.epochs,
        slowest=min(low for low, _ in spans),
        fastest=max(high for _, high in spans),
    )


def eigenvalues(block: Block, method: RoundMethod, law: Law) -> tuple[float, float]:
    """Smallest and largest of E[H] for one block in one round.

    With p of m columns in L, k0 fixed rows of n in R and k1 drawn in their complement, they are
    ``(p/m) k1/(n - k0)`` and ``p/m``: k1 = 0 leaves the complement out.
    """
    low = high = 1.0
    for letter in block.drawn_letters(method):
        length, rows = (block.m, block.rank) if letter == "B" else (block.n, block.columns or block.rank)
        assert rows is not None
        if letter == "A" and block.fixed:
            low *= (rows - block.fixed) / (length - block.fixed)
        else:
            share = expected_rank(law, length, rows) / length
            low, high = low * share, high * share
    return low, high


def _check(experiment: Experiment) -> None:
    method, local = experiment.method, experiment.local
    if type(method) is not Method or method.has_ranks:
        raise ValueError(f"no theorem covers {method.name}: it has functions of its own, or clients of different rank")
    if method.train == "both" or not method.merge:
        raise ValueError(
            f"no theorem covers {method.name}: only a chain with one trained factor (method=fed_rac_lora), or full "
            "matrices (method=fedavg), converges in this theory"
        )
    if method.train == "factor" and (not method.fresh or experiment.adapt.basis == "weights"):
        raise ValueError(
            "the theorems are for sketches that are drawn anew: set method.fresh=true, and no adapt.basis=weights"
        )
    changed = local.momentum or local.weight_decay or local.clip is not None or local.logit_adjustment
    if local.optimizer != "sgd" or changed:
        raise ValueError("the theorems are for plain SGD steps: set local=theory")
    if method.train == "factor" and not local.precondition:
        raise ValueError("the theorems are for the projected step: set local=theory (local.precondition=true)")
    if method.prox:
        raise ValueError("the theorems are for the clients' own objectives: set method.prox=0")
    if method.optimizer is not None:
        raise ValueError("the theorems are for the plain step of the server: set method.optimizer=null")
    guard = experiment.guard
    if guard.mean != "mean" or guard.clip is not None or guard.noise:
        raise ValueError("the theorems are for the plain mean: set guard.mean=mean guard.clip=null guard.noise=0")
    for name, schedule in (("local", experiment.local_schedule), ("server", experiment.server.schedule)):
        if schedule.shape != "constant" or schedule.warmup:
            raise ValueError(f"the theorems are for constant steps: set {name}.schedule={{shape: constant, warmup: 0}}")
    if not experiment.server.selection.is_uniform or experiment.server.system.deadline is not None:
        raise ValueError(
            "the theorems are for uniform cohorts that all answer: set cohort.selection=uniform cohort.available=null "
            "system.deadline=null"
        )
    if local.sampling == "replacement":
        raise ValueError("local.sampling=replacement is not covered here: set local.sampling=rr or full")
