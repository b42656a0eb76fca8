"""Steps do not wait for the device: what is asked of it in a round does not grow with the number of steps."""

import warnings
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from workloads import squared

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches, start_of_round
from fedrac.algorithm.sketch import SketchSpec
from fedrac.data.batch import Rows, batch
from fedrac.data.examples import Examples
from fedrac.data.tokens import join
from fedrac.training.local import train_cohort
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import Shard, TrainingSetup

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class Mean(nn.Module):
    """Of the tokens of a text; or of numbers, as they are."""

    def __init__(self, texts: bool) -> None:
        super().__init__()
        self.rows, self.inner, self.out = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm, self.texts = nn.LayerNorm(6), texts

    def forward(self, x):
        if self.texts:
            ids, mask = x.unbind(1)
            x = (self.rows(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.out(self.norm(torch.tanh(self.inner(x))))


class Work:
    def __init__(self, texts: bool, device: torch.device = CPU) -> None:
        torch.manual_seed(0)
        draw = torch.Generator().manual_seed(1)
        rows = [torch.randint(11, (n,), generator=draw).tolist() for n in (5, 2, 9, 3) * 6]
        numbers = torch.randn(24, 6, generator=draw).numpy()
        targets = torch.randn(24, 3, generator=draw).numpy()
        self.rows = Rows(Examples(join(rows, 1) if texts else numbers, targets), device, torch.float32)
        self.model, method = Mean(texts).to(device), Method()
        self.blocks = plan_blocks(self.model, AdaptSpec({"*": "frozen", "inner": 2}, ("out.*",)), method)
        sketches = draw_sketches(self.blocks, method, SketchSpec(), 1)
        self.start = start_of_round(self.blocks, method.at(1), sketches.values, {}, torch.float32).to(device)
        self.model.requires_grad_(False)
        self.problem = TrainingSetup(self.model, self.blocks, squared, self.take, lengths=self.rows.lengths)

    def take(self, index: torch.Tensor):
        """What the CPU does for a batch, how wide it is, say, asks nothing of a device."""
        with _disable_current_modes():
            return self.rows(index)

    def train(self, epochs: int):
        local = LocalSpec("adamw", lr=0.05, batch_size=4, epochs=epochs, max_tokens=20)
        shards = [Shard(c, torch.arange(8 * c, 8 * c + 8)) for c in range(3)]
        return train_cohort(self.problem, self.start, shards, local, 0, 1)


class Asked(TorchDispatchMode):
    """Counts what the host is given of a device: a number, or a tensor in the dtype in which it adds up losses."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        double = kwargs.get("dtype") == torch.float64 or "device" in kwargs
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default) or (
            func is torch.ops.aten._to_copy.default and double
        ):
            self.counts[str(func)] += 1
        return func(*args, **kwargs)


@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
def test_what_is_asked_in_a_round_does_not_grow_with_its_steps(texts):
    work = Work(texts)
    work.train(1)  # finds out how
    found = []
    for epochs in (1, 6):
        with Asked() as asked:
            work.train(epochs)
        found.append(asked.counts)
    assert found[0] == found[1] and found[0]["aten._to_copy.default"] > 0


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
def test_no_step_waits_for_a_gpu(texts):
    work = Work(texts, torch.device("cuda"))
    work.train(1)
    found = []
    for epochs in (1, 6):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                work.train(epochs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found.append(len(said))
    assert found[0] == found[1]


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
def test_a_gpu_finds_what_a_cpu_finds(texts):
    mine, other = (Work(texts, torch.device(name)).train(3) for name in ("cuda", "cpu"))
    torch.testing.assert_close(mine.losses, other.losses, rtol=1e-4, atol=1e-5)
    for key, value in other.factors.items():
        torch.testing.assert_close(mine.factors[key], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, gpu])])
@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("labels", ["next", "text", "tokens"])
def test_rows_of_texts_are_a_batch_of_them(device, types, labels):
    texts = [[3, 4, 5], [6], [7, 8, 9, 10], [2, 3]]
    tokens = join(texts, 1, [[i % 2 for i in range(len(t))] for t in texts] if types else None)
    tags = torch.arange(16).view(4, 4).numpy()
    examples = Examples(tokens, {"next": None, "text": tags[:, 0], "tokens": tags}[labels])
    for index in ([1], [3, 0, 3], [2, 1, 0]):
        expected = batch(examples.take(torch.tensor(index).numpy()), CPU, torch.float32)
        found = Rows(examples, torch.device(device), torch.float32)(torch.tensor(index))
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
