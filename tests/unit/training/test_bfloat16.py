"""Products in bfloat16 that are made in float32 are those in float32, rounded, forth and back."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedrac.training import bfloat16
from fedrac.training.bfloat16 import InFloat32, in_float32


def narrow(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).bfloat16()


def whole(*shape: int) -> torch.Tensor:
    return narrow(*shape).float()


CASES = {
    "linear": lambda x, of: F.linear(x, of(7, 6), of(7)),
    "no bias": lambda x, of: F.linear(x, of(7, 6)),
    "three axes": lambda x, of: F.linear(x.view(2, 2, 6), of(7, 6), of(7)),
    "of each": lambda x, of: torch.baddbmm(of(2, 2, 5), x.view(2, 2, 6), of(2, 6, 5), alpha=0.5),
    "from the left": lambda x, of: of(3, 4) @ x,
}


@pytest.mark.parametrize("entries", [2**22, 10])
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_they_are_those_of_float32(make, entries, monkeypatch):
    monkeypatch.setattr(bfloat16, "_ENTRIES", entries)
    found = []
    for of, way in ((narrow, InFloat32()), (whole, nullcontext())):
        x = of(4, 6).requires_grad_()
        with way:
            out = make(x, of)
            found.append((out, *torch.autograd.grad(out.square().sum(), x)))
    (out, gradient), (expected, expected_gradient) = found
    assert out.dtype == gradient.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=2**-8, atol=2**-8)
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=2**-5, atol=2**-4)


def test_every_product_is_made_in_float32_and_nothing_else(monkeypatch):
    seen, original = [], torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: seen.append(tuple(x.shape)) or original(x))
    layer, x = nn.Linear(6, 7).bfloat16().requires_grad_(False), narrow(4, 6).requires_grad_()
    with InFloat32():
        layer(x).relu().sum().backward()
    assert seen == [(7,), (4, 6), (6, 7), (4, 7), (7, 6)]


@pytest.mark.parametrize("native", [True, False])
def test_only_where_it_is_faster(native, monkeypatch):
    monkeypatch.setattr(bfloat16, "_is_native", lambda: native)
    models = nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2), nn.Linear(2, 2)
    models[2].autocast = torch.bfloat16
    assert [isinstance(in_float32(model), InFloat32) for model in models] == [not native, False, not native]
