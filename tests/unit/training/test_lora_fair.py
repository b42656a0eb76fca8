"""LoRA-FAIR against the oracle, which finds the correction as the least squares problem that it is."""

import pytest
import torch
from federation import Federation
from oracle import Factors, Oracle, agree
from workloads import conv, make, mlp, shards, text

from fedrac.algorithm.lora_fair import LoRAFair
from fedrac.algorithm.means import Cohort
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


class Fair(Oracle):
    """Delta solves ``[A^T; sqrt(penalty) I] Delta^T = [(M - B A)^T; 0]`` in the sense of least squares."""

    def _server(self, found: list[Factors], shares: list[float]) -> None:
        mean = {key: sum(p * f[key] for p, f in zip(shares, found, strict=True)) for key in found[0]}
        for name, rank in self.ranks.items():
            if rank is None:
                self.weights[name] = self.weights[name] + self.eta * mean[f"{name}:D"]
                continue
            a, b = mean[f"{name}:A"], mean[f"{name}:B"]
            target = sum(p * f[f"{name}:B"] @ f[f"{name}:A"] for p, f in zip(shares, found, strict=True))
            held = self.method.penalty**0.5 * torch.eye(rank, dtype=torch.float64)
            right = torch.cat([(target - b @ a).mT, torch.zeros(rank, len(b), dtype=torch.float64)])
            delta = torch.linalg.lstsq(torch.cat([a.mT, held]), right).solution.mT
            for key, value in ((f"{name}:A", a), (f"{name}:B", b + delta)):
                self.carried[key] = self.carried[key] + self.eta * (value - self.carried[key])


@pytest.mark.parametrize("factory", [mlp, conv, text], ids=lambda f: f.__name__)
def test_layers(factory):
    method, local = LoRAFair(penalty=0.05), LocalSpec("adamw", 0.02, batch_size=5, epochs=2, clip=0.5)
    f = Federation(make(factory), shards(), method, local, cohort=3, eta=0.8, weighting="examples")
    ranks = {block.name: block.rank for block in f.blocks}
    agree(f, Fair(f.workload, f.shards, ranks, f.alpha, method, f.sketch, local, 3, f.eta, True), rounds=4)


def test_the_less_b_is_held_the_nearer_is_the_mean_model():
    """With a large penalty it is FedAvg-LoRA; with none the nearest product that has A as its right factor."""
    draw = torch.Generator().manual_seed(0)
    factors = {"A": torch.randn(3, 2, 6, generator=draw).double(), "B": torch.randn(3, 5, 2, generator=draw).double()}
    cohort = Cohort(torch.full((3,), 1 / 3, dtype=torch.float64).numpy())
    target = (factors["B"] @ factors["A"]).mean(0)
    found = [LoRAFair(penalty=p).mean(factors, cohort) for p in (1e9, 1.0, 1e-3, 1e-12)]
    torch.testing.assert_close(found[0]["B"], factors["B"].mean(0), rtol=0, atol=1e-7)
    away = [float((target - each["B"] @ each["A"]).norm()) for each in found]
    assert away == sorted(away, reverse=True) and away[0] > away[-1]
    residual = target - found[-1]["B"] @ found[-1]["A"]
    assert float((residual @ found[-1]["A"].mT).abs().max()) < 1e-9  # nothing is left in the span of A


def test_a_penalty_is_positive():
    with pytest.raises(ValueError, match=r"method.penalty=0 must be positive"):
        LoRAFair(penalty=0)
