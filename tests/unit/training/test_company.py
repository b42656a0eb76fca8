"""A client of a small network finds the same bits whoever is trained beside it, and on any number of threads."""

import pytest
import torch
from federation import Federation
from torch import nn
from workloads import Workload, shards

from fedrac.algorithm.method import Method
from fedrac.data.tasks.classification import loss
from fedrac.training import products
from fedrac.training.optimizer import LocalSpec

SIZES = (1, 2, 5, 6, 11, 20, 21, 33, 47)
COMPANIES = [(0,), (3,), (4,), (8,), (0, 1), (2, 6), (1, 4, 5), (0, 2, 3, 5, 7)]
KINDS = {
    "rank 1": {"layers": {"*": 1}},
    "rank 3": {"layers": {"*": 3}},
    "two-sided": {"layers": {"*": 4}, "columns": 16, "method": Method(side="both")},
}

pytestmark = pytest.mark.skipif(
    products._processor().get("vendor_id") != "AuthenticAMD", reason="it is known of AMD's processors"
)


def workload(inputs: int = 784, hidden: int = 64) -> Workload:
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 5)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    rows = torch.randn(sum(SIZES), inputs, generator=generator)
    return Workload(model, rows, torch.randint(5, (sum(SIZES),), generator=generator), loss)


@pytest.mark.parametrize("hidden", [64, 96])
@pytest.mark.parametrize("batch_size", [5, 10, 32])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_in_any_company(kind, threads, batch_size, hidden):
    local, before = LocalSpec("adamw", 0.01, batch_size=batch_size, epochs=2), torch.get_num_threads()
    f = Federation(workload(hidden=hidden), shards(SIZES), local=local, alpha=1.0, **kind)
    whole = f.train(range(len(SIZES)))
    try:
        torch.set_num_threads(threads)
        parts = [f.train(company) for company in COMPANIES]
    finally:
        torch.set_num_threads(before)
    for company, part in zip(COMPANIES, parts, strict=True):
        for key, factors in part.factors.items():
            assert torch.equal(factors, whole.factors[key][list(company)]), (company, key)
        torch.testing.assert_close(part.losses, whole.losses[list(company)], rtol=1e-6, atol=0)
