"""Step sizes, rates and floors from theory, for convex problems with the projected step.

Gradient descent is Theorem 5.5 of arXiv 2410.08305. The rest has the form of its Theorem F.3 (local random reshuffling,
partial participation); the constants were derived for this project, and need not be the paper's.
"""

from dataclasses import dataclass
from math import inf, sqrt

from fedrac.algorithm.blocks import Block
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
        slowest, fastest: smallest and largest eigenvalue of E[H], the mean projection of the sketch.
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
    def largest_gamma(self) -> float:
        """Local step size up to which the theorem holds."""
        if self.gradient_descent:
            return inf  # only eta counts
        ratio = self.convexity * self.slowest / (12 * self.fastest * self.smoothness)
        return min(0.5, sqrt(ratio)) / (self.smoothness * self.steps)

    @property
    def largest_eta(self) -> float:
        """Server step size (in the space of W) up to which the theorem holds."""
        if self.rho == 0:
            return 1 / self.smoothness
        kappa = self.fastest / self.slowest
        return min(1 / self.smoothness, self.convexity / (8 * kappa * self.smoothness**2 * self.rho))

    def predict(self, gamma: float, eta: float) -> "Prediction":
        """What the theorem promises for these step sizes, if they are admissible."""
        admissible = gamma <= self.largest_gamma * _ROUNDED and eta <= self.largest_eta * _ROUNDED
        if self.gradient_descent:
            return Prediction(admissible, 1 - eta * self.convexity * self.slowest, 0.0, 0.0)
        kappa, big_l = self.fastest / self.slowest, self.smoothness
        k = 1 + 2 * big_l * eta * self.rho
        spread = self.steps**2 * self.between + self.batches * self.within
        drift = 2 * kappa / self.convexity * k * big_l**3 * gamma**2 * spread
        sampling = 4 * kappa / self.convexity * big_l**2 * eta * self.rho * self.between
        return Prediction(admissible, 1 - eta * self.convexity * self.slowest / 2, drift, sampling)


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
    batches = 1 if full else -(-problem.examples // local.batch_size)
    descent = full and local.epochs == 1 and cohort == problem.clients
    sides = experiment.method.sides
    share = [1.0 if b.rank is None else b.rank / (b.m if side == "left" else b.n) for b in blocks for side in sides]
    return Setting(
        smoothness=problem.smoothness("f" if descent else "client" if full else "example"),
        convexity=problem.convexity,
        between=problem.between,
        within=0.0 if full else problem.within,
        clients=problem.clients,
        cohort=cohort,
        batches=batches,
        epochs=local.epochs,
        slowest=min(share),
        fastest=max(share),
    )


def _check(experiment: Experiment) -> None:
    method, local = experiment.method, experiment.local
    if method.train == "both" or not method.merge:
        raise ValueError(
            f"no theorem covers {method.name}: only a chain with one trained factor (method=fed_rac_lora), or full "
            "matrices (method=fedavg), converges in this theory"
        )
    if local.optimizer != "sgd" or local.momentum or local.weight_decay or local.clip is not None:
        raise ValueError("the theorems are for plain SGD steps: set local=theory")
    if method.train == "factor" and not local.precondition:
        raise ValueError("the theorems are for the projected step: set local=theory (local.precondition=true)")
    guard = experiment.guard
    if guard.mean != "mean" or guard.clip is not None or guard.noise:
        raise ValueError("the theorems are for the plain mean: set guard.mean=mean guard.clip=null guard.noise=0")
    for name, schedule in (("local", experiment.local_schedule), ("server", experiment.server.schedule)):
        if schedule.shape != "constant" or schedule.warmup:
            raise ValueError(f"the theorems are for constant steps: set {name}.schedule={{shape: constant, warmup: 0}}")
    if local.sampling == "replacement":
        raise ValueError("local.sampling=replacement is not covered here: set local.sampling=rr or full")
