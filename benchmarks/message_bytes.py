"""Bytes of a round's messages, beside sending the weights: ``python -m benchmarks.message_bytes [mlp encoder]``.

Every client is a node of its own that keeps its state and can build the first weights. The server's part and the
messages are the real ones; what clients find is drawn at random, as sizes do not depend on it. *Numbers* are payload,
as ``metrics.jsonl`` counts them; *messages* are all objects that Flower makes of a message, serialised.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from torch import Tensor, nn

from benchmarks.encoder import Encoder
from fedrac import models
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks, trained_shapes
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_means import mean_shapes
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.selection import draw_cohort
from fedrac.algorithm.server_step import advance
from fedrac.algorithm.sketch import SketchSpec
from fedrac.algorithm.state import ServerState
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol.connected_clients import Hosted
from fedrac.protocol.downloads import Downloads
from fedrac.protocol.messages import RoundSpec, encode_plan, pack, payload_bytes
from fedrac.protocol.replies import Reply, encode_reply
from fedrac.protocol.state_digest import in_master_dtype
from fedrac.protocol.state_log import Step
from fedrac.training.optimizer import LocalSpec

METHOD, SKETCH = Method(), SketchSpec(seed=1)
MODEL = {"_target_": "fedrac.models.mlp", "inputs": 784, "hidden": [64, 64], "outputs": 5}


@dataclass(frozen=True)
class Case:
    """A model, what of it is trained, and how many clients share how many rounds."""

    name: str
    model: nn.Module
    adapt: AdaptSpec
    clients: int
    rounds: int


def cases(names: Sequence[str]) -> list[Case]:
    """By name."""
    found = []
    if "mlp" in names:
        found.append(Case("MLP 784-64-64-5, rank 1", models.build(MODEL, 1), AdaptSpec({"*": 1}), 100, 200))
    if "encoder" in names:
        adapt = AdaptSpec({"*": "frozen", "blocks.*": 8}, ("head.*",))
        found.append(Case("MiniLM's shape, rank 8", Encoder(30522, 512, 384, 12, 6, 5), adapt, 20, 25))
    return found


def measure(case: Case, share: float) -> dict[str, float]:
    """Means over clients and rounds, the first round left out: it brings nobody anything new."""
    blocks = plan_blocks(case.model, case.adapt, METHOD)
    weights = in_master_dtype(case.model.state_dict(), "float32")
    state, size = ServerState(0, weights, {}), round(share * case.clients)
    downlink = Downloads(weights, state, replays=True)
    hosted = Hosted(np.arange(1), np.ones(1, np.int64), "", downlink.digest)
    told: dict[str, list[float]] = {name: [] for name in ("down", "down/message", "up", "up/message")}
    for number in range(1, case.rounds + 1):
        sketches = draw_sketches(blocks, METHOD, SKETCH, number)
        descriptions = [block.description() for block in blocks]
        workload = {"data": {}, "partition": {}, "model": MODEL, "seed": 1, "dtype": "float32", "device": "auto"}
        spec = RoundSpec(number, workload, descriptions, METHOD, SKETCH, sketches.digest, LocalSpec())
        sizes: dict[int, float] = {}  # most clients of a round are sent the same
        for node in draw_cohort(range(case.clients), size, 1, number):
            update = downlink.content(node, hosted)
            if id(update) not in sizes:
                sizes[id(update)] = message_bytes(encode_plan(spec, [node], update, ArrayRecord()))
            told["down"].append(downlink.count(node, hosted, [node]) if number > 1 else np.nan)
            told["down/message"].append(sizes[id(update)] if number > 1 else np.nan)
            downlink.landed(node, [node], True)
        shapes = trained_shapes(blocks, METHOD.at(1))
        reply = encode_reply(number, Reply([7], [300], [0.5], random(shapes, 1)), {}, True)
        told["up"].append(payload_bytes(reply.array_records["factors"]))
        told["up/message"].append(message_bytes(reply))
        means = {key: value[0] for key, value in random(mean_shapes(blocks, METHOD.at(1)), 1).items()}
        state = advance(state, blocks, METHOD.at(number), sketches.values, means, 1.0)
        downlink.move(state, Step(number, 1.0, pack(means)))
    everything = sum(t.numel() * t.element_size() for t in weights.values())
    return {"weights": everything, **{name: float(np.nanmean(values)) for name, values in told.items()}}


def random(shapes: dict[str, tuple[int, ...]], clients: int) -> dict[str, Tensor]:
    """What clients might have found."""
    return {key: 1e-3 * torch.randn(clients, *shape) for key, shape in shapes.items()}


def message_bytes(content: RecordDict) -> int:
    """All objects of a message, as Flower sends them."""
    return sum(len(part.deflate()) for part in get_all_nested_objects(Message(content, 1, "train")).values())


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.message_bytes", description="Bytes of messages.")
    parser.add_argument("cases", nargs="*", default=["mlp", "encoder"], help="default: both")
    InProcessGrid(client_app.app)  # makes it known who sends messages
    print("| model | clients a round | weights | down, numbers | less by | down, message | less by | up, numbers "
          "| up, message | more by |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for case in cases(parser.parse_args().cases):
        for share in (1.0, 0.1):
            m = measure(case, share)
            print(f"| {case.name} | {share:.0%} of {case.clients} | {m['weights']:,.0f} | {m['down']:,.0f} "
                  f"| {m['weights'] / m['down']:.1f} x | {m['down/message']:,.0f} "
                  f"| {m['weights'] / m['down/message']:.1f} x | {m['up']:,.0f} | {m['up/message']:,.0f} "
                  f"| {m['up/message'] / m['up'] - 1:.1%} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
