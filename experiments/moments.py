"""RAC-LoRA on MNIST once more, as a plain loop, to try what the library does not do: AdamW's moments kept over merges.

``python -m experiments.moments FOLDER_OF_IDX_FILES`` prints, for both sides of the sketch, the test accuracy of the
setting of Table 3 with moments that start anew in every block (as in the library) and with moments that are kept.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.recorded import mean_sd, percent
from fedrac import data
from fedrac.experiment import compose
from fedrac.experiment.pretrain import initial_weights
from fedrac.experiment.settings import Experiment, parse

EPOCHS, SEEDS = 50, 3


def accuracy(experiment: Experiment, side: str, keep: bool, seed: int) -> float:
    """Test accuracy after 50 blocks of one epoch each."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout
    examples, local = data.load(experiment.data), experiment.local
    x, y = torch.tensor(examples.train.inputs).flatten(1), torch.tensor(examples.train.targets)
    start = list(initial_weights(experiment).values())
    weights, biases = start[::2], start[1::2]
    shapes = [(len(w), 1) if side == "right" else (1, w.shape[1]) for w in weights]
    trained = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    optimizer = torch.optim.AdamW(trained, lr=local.lr, weight_decay=local.weight_decay)
    for _ in range(EPOCHS):
        frozen = [torch.randn(*_frozen(w, side), generator=generator) for w in weights]
        if not keep:
            optimizer = torch.optim.AdamW(trained, lr=local.lr, weight_decay=local.weight_decay)
        for batch in torch.split(torch.randperm(len(x), generator=generator), local.batch_size):
            optimizer.zero_grad()
            outputs = _outputs(x[batch], _merged(weights, frozen, trained, side), biases, 0.1)
            torch.autograd.backward(F.cross_entropy(outputs, y[batch]))
            optimizer.step()
        with torch.no_grad():
            weights = _merged(weights, frozen, trained, side)
            for factor in trained:
                factor.zero_()
    with torch.no_grad():
        outputs = _outputs(torch.tensor(examples.test.inputs).flatten(1), weights, biases, 0.0)
    return float((outputs.argmax(1).numpy() == np.asarray(examples.test.targets)).mean())


def _frozen(weight: Tensor, side: str) -> tuple[int, int]:
    return (1, weight.shape[1]) if side == "right" else (len(weight), 1)


def _merged(weights: Sequence[Tensor], frozen: Sequence[Tensor], trained: Sequence[Tensor], side: str) -> list[Tensor]:
    pairs = zip(trained, frozen, strict=True) if side == "right" else zip(frozen, trained, strict=True)
    return [w + b @ a for w, (b, a) in zip(weights, pairs, strict=True)]


def _outputs(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dropout: float) -> Tensor:
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = F.dropout(F.relu(F.linear(x, weight, bias)), dropout)
    return F.linear(x, weights[-1], biases[-1])


def main(folder: str) -> None:
    """Prints the four means."""
    settings = ["experiment=transfer", f"data.path={folder}"]
    experiments = [parse(compose.load([*settings, f"seed={seed}"])) for seed in range(SEEDS)]
    torch.set_num_threads(1)
    print(f"{SEEDS} seeds, {EPOCHS} blocks of one epoch", flush=True)
    for side in ("left", "right"):
        for keep in (False, True):
            found = [accuracy(one, side, keep, seed) for seed, one in enumerate(experiments)]
            print(f"{side:<5}  moments {'kept  ' if keep else 'anew  '}  {mean_sd(found, percent)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
