import pytest
import torch

from fedrac.training.optimizer import LocalSpec, StackedOptimizer

SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2},
    {"lr": 0.1, "optimizer": "adamw", "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("shape", [(2, 3), (3,)])
def test_clients_that_leave_keep_their_value_and_the_others_theirs_and_their_moments(settings, shape):
    """Client c makes 5 - c steps; each must end as it would alone."""
    spec, g = LocalSpec(**settings), torch.Generator().manual_seed(0)
    start = {k: torch.randn(3, *shape, generator=g).double() for k in "ab"}
    gradients = [{k: torch.randn(3, *shape, generator=g).double() for k in "ab"} for _ in range(5)]
    steps = [5, 4, 2]
    stacked = {k: v.clone() for k, v in start.items()}
    optimizer = StackedOptimizer(stacked, spec)
    for step in range(5):
        active = sum(count > step for count in steps)
        assert {k: len(v) for k, v in optimizer.narrow(active).items()} == dict.fromkeys("ab", active)
        optimizer.step({k: v[:active] for k, v in gradients[step].items()})
    for c, count in enumerate(steps):
        alone = {k: v[c].clone().requires_grad_() for k, v in start.items()}
        make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[spec.optimizer]
        own = {k: v for k, v in settings.items() if k != "optimizer"}
        reference = make(alone.values(), **own)
        for step in range(count):
            for k, v in alone.items():
                v.grad = gradients[step][k][c]
            reference.step()
        for k, v in alone.items():
            torch.testing.assert_close(stacked[k][c], v.detach(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "lion"}, "local.optimizer='lion' is unknown: choose sgd or adamw"),
        ({"sampling": "once"}, "local.sampling='once' is unknown: choose rr, replacement or full"),
        ({"lr": 0.0}, "local.lr=0.0 must be positive"),
        ({"lr": float("nan")}, "local.lr=nan must be positive"),
        ({"epochs": 0}, "local.epochs=0 must be at least 1"),
        ({"batch_size": 0}, "local.batch_size=0 must be at least 1"),
        ({"momentum": 1.0}, r"local.momentum=1.0 must lie in \[0, 1\)"),
        ({"weight_decay": -0.1}, "local.weight_decay=-0.1 must not be negative"),
        ({"weight_decay": float("inf")}, "local.weight_decay=inf must not be negative, nor infinite"),
        ({"betas": (2.0, 3.0)}, r"local.betas=\(2.0, 3.0\) must lie in \[0, 1\)"),
        ({"betas": (0.9, float("nan"))}, "local.betas="),
        ({"eps": -1.0}, "local.eps=-1.0 must be positive and finite"),
        ({"clip": float("inf")}, "local.clip=inf must be positive and finite"),
        ({"l2": -0.1}, "local.l2=-0.1 must not be negative"),
        ({"clip": 0.0}, "local.clip=0.0 must be positive and finite, or null for none"),
        ({"max_tokens": 0}, "local.max_tokens=0 must be at least 1"),
        (
            {"precondition": True, "optimizer": "adamw"},
            "local.precondition=true is the theory step, which is SGD: set local.optimizer=sgd",
        ),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        LocalSpec(**settings)


@pytest.mark.parametrize(
    ("sampling", "size", "steps", "rows"),
    [("rr", 23, 10, 5), ("rr", 3, 2, 5), ("replacement", 23, 10, 5), ("full", 23, 2, 23)],
)
def test_steps_and_rows_of_a_client(sampling, size, steps, rows):
    spec = LocalSpec(batch_size=5, epochs=2, sampling=sampling)
    assert spec.steps(size) == steps
    assert spec.rows_per_step(size) == rows
