"""The simulated time of a run's rounds: who would be late, and how long each round would last.

It follows from the settings and from the cohorts so far, so that a run that goes on after a stop has the same times.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedrac.algorithm.blocks import sent_shapes, trained_shapes
from fedrac.algorithm.client_ranks import shapes_of_rank
from fedrac.algorithm.round_means import mean_shapes
from fedrac.algorithm.rounding import Rounding
from fedrac.algorithm.simulated_time import SystemSpec, Work
from fedrac.protocol.connected_clients import ConnectedClients
from fedrac.protocol.downloads import Downloads
from fedrac.protocol.messages import Shapes
from fedrac.protocol.replay import Replay
from fedrac.protocol.round_report import RoundReport
from fedrac.protocol.sparse import upload_bytes, vector_of


class SimulatedClock:
    """Tells the time of one run.

    A client that was drawn keeps what it downloaded, and is sent the means of the rounds since then, or the trained
    weights, whichever are fewer bytes; one that was never drawn begins with the weights before round 1.

    Args:
        system: what clients can do.
        seed: the run's.
        replay: what the server's steps have in common.
        upload_bits: of a number that clients send; None: it is whole.
        epochs: passes over a client's data in a round.
        connected: the clients, and the last round before this process that each was drawn for.
        downloads: says which clients can build the weights before round 1, and counts.
        initial: these weights.
        finished: the last round that counts; later ones are done again.
    """

    def __init__(
        self,
        system: SystemSpec,
        seed: int,
        replay: Replay,
        upload_bits: int | None,
        epochs: int,
        connected: ConnectedClients,
        downloads: Downloads,
        initial: Mapping[str, Tensor],
        finished: int,
    ) -> None:
        self._system, self._seed, self._epochs = system, seed, epochs
        self._connected, self._downloads = connected, downloads
        self._drawn = {client: last for client, last in connected.drawn.items() if last <= finished}
        blocks, method = replay.blocks, replay.method
        size = initial[blocks[0].name].element_size()
        rounds = [method.at(number) for number in range(1, method.period + 1)]
        self._trained, self._bits = [sent_shapes(blocks, at) for at in rounds], upload_bits  # of a period's rounds
        self._uploads: dict[tuple[int, int | None], int] = {}  # by place in the period and rank
        self._steps = [_bytes(mean_shapes(blocks, at), size, replay.bits) for at in rounds]
        changes = method.merge or method.average == "products"  # else the weights stay, and factors are carried
        self._weights = size * sum(math.prod(b.shape) for b in blocks if changes or b.rank is None)
        adapted = [block for block in blocks if block.rank is not None]
        moving = [sent_shapes(adapted, at) for at in rounds]
        carried = [{k: v for k, v in shapes.items() if not method.merge and not k.endswith("c")} for shapes in moving]
        self._of_round, self._size = carried, size
        first = [{} if method.merge else trained_shapes(adapted, at) for at in rounds]  # and what stays with clients
        self._carried = _bytes({key: shape for shapes in first for key, shape in shapes.items()}, size)
        self._moments = len(method.step("", torch.zeros(1), {})[1]) + method.sends_controls  # of each number
        self._sparse, self._start = method.densities, 0
        if self._sparse is not None:  # every message has the factors, and nodes have no others
            self._start = vector_of(first[0], self._sparse.download, size).size
            self._of_round, self._carried, self._moments = [{} for _ in rounds], 0, 0
        self._model = sum(value.nbytes for value in initial.values())

    def tell(
        self, report: RoundReport, matrices: Mapping[str, Tensor] | None, ranks: Mapping[int, int] | None = None
    ) -> None:
        """Enters into the report how long its cohort takes, who is late, and what those who are late download.

        Args:
            matrices: the sketches, where they are sent, so that nobody makes the server's steps; None: they are drawn.
            ranks: of the cohort's clients, where they differ.
        """
        system, number, seconds = self._system, report.round, {}
        more = sum(value.nbytes for value in (matrices or {}).values())
        whole = matrices is not None or self._sparse is not None
        examples = self._connected.examples_of(report.cohort)
        for node, clients in self._connected.by_host(report.cohort).items():
            begin = self._downloads.first(self._connected.hosts[node])
            for client in clients:
                download = self.download(self._drawn.get(client, begin), number, whole) + self._start + more
                upload = self._upload((number - 1) % len(self._trained), (ranks or {}).get(client))
                work = Work(examples[client] * self._epochs, download, upload)
                seconds[client] = system.seconds(client, work, self._seed, number)
        self._drawn |= dict.fromkeys(report.cohort, number)
        deadline = math.inf if system.deadline is None else system.deadline
        report.late = [client for client in report.cohort if seconds[client] > deadline]
        report.simulated_seconds = deadline if report.late else max(seconds.values(), default=0.0)
        for node, clients in self._connected.by_host(report.late).items():
            count = self._downloads.count(node, self._connected.hosts[node], clients)
            report.download_bytes += count + more * len(clients)

    def _upload(self, place: int, rank: int | None) -> int:
        if (place, rank) not in self._uploads:
            shapes = shapes_of_rank(self._trained[place], rank)
            size = _bytes(shapes, self._size, self._bits)
            if self._sparse is not None:
                size = upload_bytes(shapes, self._sparse.upload, self._size)
            self._uploads[place, rank] = size
        return self._uploads[place, rank]

    def download(self, last: int | None, number: int, whole: bool) -> int:
        """Bytes that bring a client to the start of round ``number``.

        Args:
            last: the last round that it was drawn for; 0: it has the weights before round 1; None: it has nothing.
            whole: it cannot make the server's steps itself.
        """
        if last is None:
            return self._model + self._carried
        missed = range(max(last, 1), number)
        moved = {k: shape for round_ in missed for k, shape in self._of_round[(round_ - 1) % len(self._steps)].items()}
        carried = _bytes(moved, self._size) if last else self._carried
        changed = self._weights * bool(missed) + carried
        if missed:
            changed += self._moments * (carried or self._weights)
        if whole or (last == 0 and self._carried):  # nobody has factors to begin with
            return changed if missed or last == 0 else 0
        return min(changed, sum(self._steps[(round_ - 1) % len(self._steps)] for round_ in missed))


def _bytes(shapes: Shapes, size: int, bits: int | None = None) -> int:
    """Of numbers of ``size`` bytes, or of ``bits`` bits."""
    return size * sum(map(math.prod, shapes.values())) if bits is None else Rounding(bits, 0, ()).size(shapes)
