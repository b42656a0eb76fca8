"""Products with frozen weights are those of PyTorch, forth and back, whichever library makes them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fedrac.training import products
from fedrac.training.products import faster, linear, linear_back

THERE = products._most() > 0


@pytest.fixture(autouse=True)
def every_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, too, and on processors of any maker."""
    monkeypatch.setattr(products, "_LEAST", 1)
    monkeypatch.setattr(products, "_most", lambda: math.inf)


def exact(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x.double(), w.double(), None if bias is None else bias.double()).float()


@pytest.mark.parametrize("shape", [(40, 7), (2, 3, 20, 7), (16, 1)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_and_the_way_back(shape, biased):
    x, w, bias = torch.randn(shape), torch.randn(5, shape[-1]), torch.randn(5) if biased else None
    g = torch.randn(*shape[:-1], 5)
    torch.testing.assert_close(linear(x, w, bias), exact(x, w, bias))
    torch.testing.assert_close(linear_back(g, w), exact(g, w.mT, None))


@pytest.mark.parametrize("x", [torch.randn(7, 40).mT, torch.randn(80, 14)[::2, ::2], torch.randn(40, 1).expand(40, 7)])
def test_rows_of_any_layout(x):
    w = torch.randn(10, 14)[::2, ::2]
    torch.testing.assert_close(linear(x, w), exact(x, w, None))


def test_a_model_is_differentiated_as_always():
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4, bias=False)).requires_grad_(False)
    found = []
    for with_it in (True, False):
        x = torch.linspace(-1, 1, 120).view(20, 6).requires_grad_()
        if with_it:
            with faster(model):
                out = model(x)
        else:
            out = model(x)
        found.append((out.detach(), *torch.autograd.grad(out.square().sum(), x)))
        kinds = {type(out.grad_fn).__name__}
        assert ("_LinearBackward" in kinds) == with_it
    torch.testing.assert_close(*found)


def test_a_layer_may_be_computed_again_on_the_way_back():
    layer, x, found = nn.Linear(6, 9).requires_grad_(False), torch.linspace(-1, 1, 120).view(20, 6), []
    for again in (True, False):
        x = x.detach().requires_grad_()
        with faster(layer):
            out = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
            found.append(torch.autograd.grad(out.square().sum(), x)[0])
    assert torch.equal(*found)


def test_second_derivatives_are_refused():
    x, layer = torch.ones(20, 6, requires_grad=True), nn.Linear(6, 9).requires_grad_(False)
    with faster(layer), pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)


def test_what_is_trained_keeps_its_gradient():
    layer, x = nn.Linear(6, 9), torch.randn(20, 6)
    with faster(layer):
        layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(9, 6))
    torch.testing.assert_close(layer.bias.grad, torch.full((9,), 20.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_numbers_are_left_to_pytorch(dtype):
    x, w = torch.randn(20, 6, dtype=dtype), torch.randn(9, 6, dtype=dtype)
    assert torch.equal(linear(x, w), F.linear(x, w))
    assert torch.equal(linear_back(linear(x, w), w), F.linear(x, w) @ w)


def test_autocast_computes_in_less():
    layer = nn.Linear(6, 9).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16), faster(layer):
        assert layer(torch.randn(20, 6)).dtype == torch.bfloat16


def test_a_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh())
    before = [dict(vars(module)) for module in model.modules()]
    with pytest.raises(ValueError, match="inputs"), faster(model):
        assert "forward" in vars(model[0])
        raise ValueError("inputs")
    assert [dict(vars(module)) for module in model.modules()] == before


@pytest.mark.skipif(not THERE, reason="what this processor computes with is PyTorch's choice")
@pytest.mark.parametrize("rows", [2, 3, 10, 33])
def test_a_row_has_the_same_bits_whoever_is_beside_it(rows):
    x, w, bias = torch.randn(100, 300), torch.randn(250, 300), torch.randn(250)
    assert torch.equal(linear(x, w, bias)[40 : 40 + rows], linear(x[40 : 40 + rows], w, bias))
    g = torch.randn(100, 250)
    assert torch.equal(linear_back(g, w)[40 : 40 + rows], linear_back(g[40 : 40 + rows], w))


def test_small_matrices_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(products, "_LEAST", 51)
    x, w = torch.randn(900, 10), torch.randn(5, 10)
    assert torch.equal(linear(x, w), F.linear(x, w))
    assert torch.equal(linear_back(linear(x, w), w), F.linear(x, w) @ w)


@pytest.mark.skipif(not THERE, reason="what MKL does with a few rows is known of AMD's processors")
@pytest.mark.parametrize("shape", [(64, 64), (5, 64), (64, 784)], ids=str)
def test_a_few_rows_have_the_same_bits_on_two_threads_and_beside_others(shape, monkeypatch):
    monkeypatch.setattr(products, "_LEAST", 10**9)
    x, g, w = torch.randn(200, shape[1]), torch.randn(200, shape[0]), torch.randn(shape)
    before = torch.get_num_threads()
    with_one, with_two = [], []
    try:
        for threads, found in ((1, with_one), (2, with_two)):
            torch.set_num_threads(threads)
            for rows in range(1, 40):
                found += [linear(x[:rows], w), linear_back(g[:rows], w)]
            found += [linear(x, w), linear_back(g, w)]
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, with_one, with_two))
    forth, back = with_one[-2:]
    for rows in range(1, 40):
        assert torch.equal(with_one[2 * rows - 2], forth[:rows]) and torch.equal(with_one[2 * rows - 1], back[:rows])


def test_no_rows_are_none(monkeypatch):
    monkeypatch.setattr(products, "_LEAST", 10**9)
    assert linear(torch.ones(0, 3), torch.ones(2, 3)).shape == (0, 2)
