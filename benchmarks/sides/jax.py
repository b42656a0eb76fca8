"""JAX (https://github.com/jax-ml/jax): the same round as one compiled function, all clients and all steps at once.

As one writes it by hand for this work: a map over the clients of a loop over their steps; unequal clients are padded
with mini-batches that have no rows, to a multiple of 8 steps, so that few shapes are compiled.
"""

import time
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from jax import numpy as jnp
from torch import Tensor, nn

from benchmarks.lora import order
from benchmarks.workloads import SEED, Workload
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.sketch import SketchSpec

STEPS = 8  # shapes are compiled for multiples of so many steps


@partial(jax.jit, static_argnames=("scales", "lr"), donate_argnums=0)
def train_and_merge(
    weights: Any, biases: Any, sketches: Any, x: Any, y: Any, index: Any, real: Any, scales: Any, lr: float
) -> Any:
    """The merged weights after one round; ``index`` (C, S, b) are the rows of every mini-batch, ``real`` says which."""

    def outputs(factors: Any, rows: Any) -> Any:
        for i, (w, bias, b, s, a) in enumerate(zip(weights, biases, sketches, scales, factors, strict=True)):
            rows = jax.nn.relu(rows) if i else rows
            rows = rows @ w.T + s * (rows @ a.T) @ b.T + bias
        return rows

    def loss(factors: Any, rows: Any, targets: Any, weight: Any) -> Any:
        logs = jax.nn.log_softmax(outputs(factors, rows))
        return -(jnp.take_along_axis(logs, targets[:, None], 1)[:, 0] * weight).sum()

    def step(factors: Any, batch: Any) -> Any:
        at, some = batch
        found = jax.grad(loss)(factors, x[at], y[at], some / jnp.maximum(some.sum(), 1))
        return [a - lr * g for a, g in zip(factors, found, strict=True)], None

    def client(at: Any, some: Any) -> Any:
        start = [jnp.zeros((b.shape[1], w.shape[1])) for w, b in zip(weights, sketches, strict=True)]
        return jax.lax.scan(step, start, (at, some))[0]

    means = [factor.mean(0) for factor in jax.vmap(client)(index, real)]
    return [w + s * b @ a for w, s, b, a in zip(weights, scales, sketches, means, strict=True)]


class Side:
    def __init__(self, workload: Workload, device: str) -> None:
        if device != "cpu":
            raise ValueError(f"device={device}: the compiled peer is measured on cpu")
        self.workload, self.round = workload, 0
        model, train = workload.build(), workload.data.train
        self.blocks = plan_blocks(model, workload.adapt, Method())
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self.names = [block.name for block in self.blocks]
        self.now = [jnp.asarray(layer.weight.detach().numpy()) for layer in layers]
        self.biases = [jnp.asarray(layer.bias.detach().numpy()) for layer in layers]
        self.x, self.y = jnp.asarray(train.inputs), jnp.asarray(train.targets.astype(np.int32))

    def run(self, rounds: int) -> list[float]:
        times, scales = [time.monotonic()], tuple(block.scale for block in self.blocks)
        for _ in range(rounds):
            self.round += 1
            drawn = draw_sketches(self.blocks, Method(), SketchSpec(seed=SEED), self.round).values
            sketches = [drawn[name].float().numpy() for name in self.names]
            index, real = self.batches()
            self.now = train_and_merge(
                self.now, self.biases, sketches, self.x, self.y, index, real, scales, self.workload.local.lr
            )
            jax.block_until_ready(self.now)
            times.append(time.monotonic())
        return times

    def batches(self) -> tuple[Any, Any]:
        """Rows of every mini-batch of the cohort (C, S, b) int32, and which of them are real."""
        size = self.workload.local.batch_size
        rows = [s[order(self.round, c, len(s)).numpy()] for c in self.cohort() if len(s := self.workload.shards[c])]
        steps = -(-max(map(len, rows)) // size)
        steps = steps if self.workload.alpha is None else -(-steps // STEPS) * STEPS
        index, real = np.zeros((len(rows), steps * size), np.int32), np.zeros((len(rows), steps * size), np.float32)
        for place, own in enumerate(rows):
            index[place, : len(own)], real[place, : len(own)] = own, 1.0
        return index.reshape(len(rows), steps, size), real.reshape(len(rows), steps, size)

    def cohort(self) -> list[int]:
        return self.workload.cohort_of(self.round)

    def weights(self) -> dict[str, Tensor]:
        return {name: torch.tensor(np.asarray(value)) for name, value in zip(self.names, self.now, strict=True)}
