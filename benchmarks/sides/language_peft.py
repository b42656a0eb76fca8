"""The work of W6 as one writes it with transformers and PEFT, one client after another, without checkpoints.

python -m benchmarks.sides.language_peft W6 ROUNDS THREADS DROPOUT
"""

import json
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.shapes import reviews, roberta_itself
from fedrac.data.batch import Rows


def adapted(dropout: float) -> Any:
    """The model with B random and frozen, A from zero, and the head trained."""
    import peft

    wanted = peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=8, target_modules=["query", "value"])
    model = peft.get_peft_model(roberta_itself(dropout), wanted)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.requires_grad_(False).normal_()
        if "lora_A" in name:
            parameter.data.zero_()
    return model


def layers(model: Any) -> list[Any]:
    """Those with an adapter."""
    return [module for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]


def round_of(model: Any, clients: list[Tensor], take: Rows) -> None:
    """Every client from the same start, the mean of what they found, and the merge."""
    trained = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    sums = [torch.zeros_like(p) for p in trained]
    model.train()
    for rows in clients:
        with torch.no_grad():
            for parameter, value in zip(trained, start, strict=True):
                parameter.copy_(value)
        optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
        for part in rows[torch.randperm(len(rows))].split(8):
            inputs, targets = take(part)
            loss = F.cross_entropy(model(input_ids=inputs[:, 0], attention_mask=inputs[:, 1]).logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for total, parameter in zip(sums, trained, strict=True):
            total += parameter.detach()
    with torch.no_grad():
        for parameter, total in zip(trained, sums, strict=True):
            parameter.copy_(total / len(clients))
        for layer in layers(model):
            layer.base_layer.weight += layer.get_delta_weight("default")
            layer.lora_A["default"].weight.zero_()
            layer.lora_B["default"].weight.normal_()


@torch.no_grad()
def tested(model: Any, take: Rows, count: int) -> float:
    """The mean loss."""
    model.eval()
    inputs, targets = take(torch.arange(count))
    return float(F.cross_entropy(model(input_ids=inputs[:, 0], attention_mask=inputs[:, 1]).logits, targets))


def main() -> None:
    """Prints what was measured, as JSON."""
    rounds, threads, dropout = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    data, model = reviews(8, 16), adapted(dropout)
    takes = [Rows(part, torch.device("cpu"), torch.float32) for part in (data.train, data.test)]
    clients = [torch.from_numpy(np.flatnonzero(data.train.groups == c)) for c in range(8)]
    ends, worked = [time.monotonic()], [time.process_time()]
    for _ in range(rounds):
        round_of(model, clients, takes[0])
        loss = tested(model, takes[1], len(data.test))
        ends.append(time.monotonic())
        worked.append(time.process_time())
    steady = slice(1 if rounds > 1 else 0, None)
    found = {
        "seconds a round": round(statistics.median(b - a for a, b in list(pairwise(ends))[steady]), 2),
        "CPU seconds a round": round(statistics.median(b - a for a, b in list(pairwise(worked))[steady]), 2),
        "first round": round(ends[1] - ends[0], 2),
        "loss": round(loss, 4),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
