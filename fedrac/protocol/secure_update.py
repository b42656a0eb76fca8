"""What a node answers in the place of its clients' factors, where the server is to see sums alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedrac.aggregation.secure_grid import SecureGrid
from fedrac.aggregation.update_vectors import UpdateVectors
from fedrac.algorithm.streams import Stream
from fedrac.protocol import secure_client
from fedrac.protocol.own_noise import system_normal
from fedrac.protocol.replies import Reply

MASKED = "masked"  # the key of masked updates among a reply's factors


def hidden(
    round_: int,
    grid: SecureGrid,
    space: UpdateVectors,
    seed: int,
    reply: Reply,
    boxes: Mapping[str, Any],
    state: RecordDict,
) -> tuple[Reply, dict[int, str]]:
    """The reply with updates on the grid, under masks; and clients that have none, with the reason.

    Losses are part of what is masked, and told as 0.

    Args:
        round_: its number.
        grid: that of the round.
        space: in which updates are measured.
        seed: the run's, for rounding; noise comes from the operating system.
        reply: what the clients found.
        boxes: shares for the clients, from the server.
        state: of the node.

    Raises:
        ValueError: masks have not been agreed on, or too few clients share them.
    """
    words: dict[int, Tensor] = {}
    failed: dict[int, str] = {}
    for client, row, loss in zip(reply.clients, space.rows(reply.factors), reply.losses, strict=True):
        try:
            noise = system_normal(len(row)) if grid.noise else None
            words[client] = grid.encode(row, loss, Stream(seed, "grid", round_, client), noise)
        except ValueError as error:
            failed[client] = str(error)
    found = secure_client.masked(round_, boxes, words, state)
    examples = [n for client, n in zip(reply.clients, reply.examples, strict=True) if client in found]
    factors = {MASKED: torch.stack(list(found.values()))} if found else {}
    return replace(reply, clients=list(found), examples=examples, losses=[0.0] * len(found), factors=factors), failed
