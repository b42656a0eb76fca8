"""Peak memory of a step of 32 clients against that of one client with as many samples a step.

python -m benchmarks.memory [minilm | roberta-base] [--clients 32] [--rows 128] [--tokens 64] [--rank 4]

The models have the shapes of these checkpoints and random weights, so that nothing is downloaded. Each side is a
process of its own that trains two steps of AdamW. On a CPU the peak is that of the whole process (Linux's VmHWM), the
imports and the model included; on a GPU it is PyTorch's peak of allocated memory.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "minilm": {"kind": "Bert", "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "roberta-base": {"kind": "Roberta", "vocab_size": 50265, "max_position_embeddings": 514},
}


def main() -> None:
    """Runs both sides and prints their peaks and the ratio."""
    parser = argparse.ArgumentParser(description="Memory of a cohort against that of one client.")
    parser.add_argument("model", nargs="?", default="minilm", choices=SHAPES)
    for name, default in (("clients", 32), ("rows", 128), ("tokens", 64), ("rank", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(side(options, options.side)))
        return
    peaks = []
    for clients in (1, options.clients):
        command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--side", str(clients)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        peaks.append(found["peak"])
        rows = options.rows // clients
        print(f"{clients:3} clients of {rows:4} rows: {found['peak']:6.0f} MiB, {found['before']:.0f} before the steps")
    print(f"ratio {peaks[1] / peaks[0]:.3f}")


def side(options: argparse.Namespace, clients: int) -> dict[str, float]:
    """Two steps of ``clients`` clients that share ``options.rows`` rows: MiB before them, and at the peak."""
    import torch

    from fedrac.algorithm.adapt import AdaptSpec
    from fedrac.algorithm.blocks import plan_blocks
    from fedrac.algorithm.method import Method
    from fedrac.algorithm.round_start import draw_sketches, start_of_round
    from fedrac.algorithm.sketch import SketchSpec
    from fedrac.data import tasks
    from fedrac.training.local import train_cohort
    from fedrac.training.optimizer import LocalSpec
    from fedrac.training.setup import Shard, TrainingSetup

    device, rows = torch.device(options.device), options.rows
    model = build(SHAPES[options.model]).to(device)
    method = Method()
    blocks = plan_blocks(model, AdaptSpec({"all-linear": options.rank}, ["head"]), method)
    model.requires_grad_(False)
    sketches = draw_sketches(blocks, method, SketchSpec(), 1)
    start = start_of_round(blocks, method.at(1), sketches.values, {}, torch.float32).to(device)
    texts = torch.randint(5, 1000, (rows, 2, options.tokens), device=device)
    texts[:, 1] = 1
    labels = torch.randint(2, (rows,), device=device)
    problem = TrainingSetup(
        model, blocks, lambda out, y: tasks.named("classification").loss(out, y), lambda i: (texts[i], labels[i])
    )
    shards = [Shard(c, own) for c, own in enumerate(torch.arange(rows).tensor_split(clients))]
    before = peak(device)
    train_cohort(problem, start, shards, LocalSpec("adamw", lr=1e-3, epochs=2, sampling="full"), 0, 2)
    return {"before": before, "peak": peak(device)}


def build(shape: dict[str, Any]) -> Any:
    """A classifier of two classes with dropout."""
    import transformers

    from fedrac.models.hf import HuggingFace

    options = {name: value for name, value in shape.items() if name != "kind"}
    config = getattr(transformers, f"{shape['kind']}Config")(**options)
    return HuggingFace(getattr(transformers, f"{shape['kind']}ForSequenceClassification")(config))


def peak(device: Any) -> float:
    """MiB at the peak until now."""
    import torch

    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return float(line.split()[1]) / 2**10


if __name__ == "__main__":
    main()
