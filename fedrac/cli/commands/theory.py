"""``fedrac theory KEY=VALUE ...``: admissible step sizes and predicted convergence of a configuration."""

import argparse
from collections.abc import Sequence

from fedrac import models
from fedrac.algorithm.blocks import plan_blocks
from fedrac.experiment import compose
from fedrac.experiment.settings import Experiment, parse
from fedrac.theory.affine import convex_problem
from fedrac.theory.convex import Convex
from fedrac.theory.rates import Setting, setting


def main(argv: Sequence[str]) -> int:
    """Prints what theory says of the configuration; with ``--steps`` only the overrides that set step sizes.

    Raises:
        ValueError: the configuration is wrong, its problem is not convex, or no theorem covers it.
    """
    parser = argparse.ArgumentParser(prog="fedrac theory", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--steps", action="store_true", help="print only the overrides that set the steps")
    for name, what in (("gamma", "local"), ("eta", "server")):
        parser.add_argument(f"--{name}", type=float, default=1.0, metavar="SHARE", help=f"of the largest {what} step")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run")
    asked = parser.parse_args(argv)
    if not (asked.gamma > 0 and asked.eta > 0):
        raise ValueError(f"--gamma {asked.gamma:g} --eta {asked.eta:g}: the shares must be positive")
    experiment = parse(compose.load(asked.overrides))
    problem = convex_problem(experiment)
    blocks = plan_blocks(models.build(experiment.model, experiment.seed), experiment.adapt, experiment.method)
    known = setting(experiment, problem, blocks)
    steps = _steps(known, asked.gamma, asked.eta)
    if asked.steps:
        print(steps)
        return 0
    print(_describe(experiment, problem, known))
    print(f"{'the largest' if asked.gamma == asked.eta == 1 else 'these shares':<15} {steps}")
    return 0


_CONFINED = """confined        lam_min = 0: the run converges to the best of W0 + span of the basis, and no further, and
                what follows is said of f there; adapt.fresh_columns=1 or more leads to f*"""


def _steps(known: Setting, gamma_share: float, eta_share: float) -> str:
    """Overrides for these shares of the largest steps. For gradient descent only eta counts, and eta' is 1."""
    eta = eta_share * known.largest_eta
    gamma = eta if known.gradient_descent else gamma_share * known.largest_gamma
    return f"local.lr={gamma:.6g} server.eta={eta / (gamma * known.steps):.6g}"


def _describe(experiment: Experiment, problem: Convex, known: Setting) -> str:
    gamma = experiment.local.lr
    eta = experiment.server.eta * gamma * known.steps
    told = known.predict(gamma, eta)
    floor = told.drift + told.sampling
    kind = "least squares" if problem.task == "regression" else "logistic regression"
    whole = "" if known.batches == 1 else f" in {known.batches} mini-batches"
    fits = "admissible" if told.admissible else "NOT admissible: the theorem says nothing about them"
    gap = problem.value(problem.start) - problem.minimum
    sides = " and ".join(experiment.method.sides)
    theorem = "5.5 (gradient descent)" if known.gradient_descent else "of the form of F.3, constants derived here"
    lines = [
        f"problem         {kind}, {len(problem.start)} trained numbers, f* = {problem.minimum:.6g}, "
        f"f(W0) - f* = {gap:.4g}",
        f"federation      {known.clients} clients of {problem.examples} examples{whole}, cohort {known.cohort}, "
        f"K = {known.steps} local steps, rho = {known.rho:.4g}",
        f"constants       L = {known.smoothness:.6g}  mu = {known.convexity:.6g}  Delta* = {known.between:.4g}  "
        f"sigma* = {known.within:.4g}  zeta*^2 = {problem.noise:.4g}",
        f"sketch          {sides}, E[H] from {known.slowest:.4g} to {known.fastest:.4g}",
        *([_CONFINED] if known.confined else []),
        f"theorem         {theorem}",
        f"admissible      eta <= {known.largest_eta:.6g}"
        + ("" if known.gradient_descent else f", gamma <= {known.largest_gamma:.6g}"),
        f"configured      gamma = local.lr = {gamma:.6g}, eta = server.eta gamma K = {eta:.6g}: {fits}",
    ]
    if told.admissible:
        lines.append(
            f"predicted       the gap shrinks by {told.rate:.6g} a round or faster, to at most {floor:.4g} "
            f"(drift {told.drift:.4g}, client sampling {told.sampling:.4g})"
        )
    if problem.task == "regression" and known.rho > 0:
        lines.append(f"near the floor  {eta * known.rho / 4 * problem.noise:.4g} (least squares, small gamma and eta)")
    return "\n".join(lines)
