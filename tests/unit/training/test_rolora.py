"""RoLoRA (arXiv 2409.02346) against the oracle's dense models: the factor that a round freezes is the last round's."""

from dataclasses import dataclass, field

import pytest
import torch
from federation import Federation
from oracle import Factors, Oracle, agree
from workloads import conv, make, mlp, shards, text

from fedrac.algorithm.method import Method
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

ROLORA = Method(side="alternate_right", fresh=False, merge=False)


@dataclass
class RoLoRA(Oracle):
    """Both factors live on; of a round's two, one is trained."""

    both: Factors = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.carried = {}
        for name, rank in self.ranks.items():
            if rank is not None:
                m, n = self._shape(name)
                self.both[f"{name}:A"] = self.sketch.draw("right", 1, name, m, n, rank)
                self.both[f"{name}:B"] = torch.zeros(m, rank, dtype=torch.float64)

    def _left(self, round_: int) -> bool:
        return round_ % 2 == 0

    def _frozen(self, round_: int) -> Factors:
        letter = "B" if self._left(round_) else "A"
        return {key: factor for key, factor in self.both.items() if key[-1] == letter}

    def step(self):
        self.both |= self.carried
        trained = "A" if self._left(self.round + 1) else "B"
        self.carried = {key: factor for key, factor in self.both.items() if key[-1] == trained}
        return super().step()


def run(factory, local, rounds=5):
    f = Federation(make(factory), shards(), ROLORA, local, cohort=3, eta=0.8, weighting="examples")
    ranks = {b.name: b.rank for b in f.blocks}
    oracle = RoLoRA(f.workload, f.shards, ranks, f.alpha, ROLORA, f.sketch, local, 3, f.eta, True)
    agree(f, oracle, rounds)
    return f


@pytest.mark.parametrize("factory", [mlp, conv, text], ids=lambda f: f.__name__)
def test_layers(factory):
    run(factory, LocalSpec("adamw", 0.02, batch_size=5, l2=0.1, clip=0.5))


def test_the_theory_step_takes_the_frozen_factor_as_it_is():
    run(mlp, LocalSpec(lr=0.01, batch_size=5, precondition=True), rounds=3)


def test_the_frozen_factor_stays_and_the_mean_of_models_is_exact():
    """The mean of the factors makes the mean of the clients' models: what RoLoRA alternates for."""
    f = Federation(make(mlp), shards(), ROLORA, LocalSpec(lr=0.1, batch_size=5))
    for frozen in "ABAB":
        before = dict(f.state.factors)
        stacked = f.round().factors
        for block in (b for b in f.blocks if b.rank is not None):
            key, other = block.key(frozen), block.key("BA".replace(frozen, ""))
            assert torch.equal(f.state.factors[key], before[key]) and other in stacked
            fixed = before[key]
            products = [fixed @ x if frozen == "B" else x @ fixed for x in stacked[other]]
            after = f.state.factors[block.key("B")] @ f.state.factors[block.key("A")]
            torch.testing.assert_close(after, torch.stack(products).mean(0), rtol=1e-12, atol=1e-12)
