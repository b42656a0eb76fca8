"""A host serves clients: it loads their data once, and trains or tests them when asked."""

import copy
import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor, nn

from fedrac import data, models, partition, source, task
from fedrac.adapter import MixedRows
from fedrac.blocks import find_blocks
from fedrac.local import CohortResult, train_cohort
from fedrac.messages import RoundPlan
from fedrac.population import Hosted
from fedrac.problem import Problem, Shard
from fedrac.replies import Reply, join
from fedrac.rounds import draw_sketches, start_of_round

log = logging.getLogger(__name__)

Answer = Callable[[Message, Context], RecordDict]


class Host:
    """The clients ``c`` of a workload with ``c mod num_partitions == partition_id``.

    Args:
        workload: ``data``, ``partition`` and ``model`` (each with what its loader takes), ``seed``, ``dtype`` of the
            computation, ``device`` (``auto``, ``cpu``, ``cuda``, ...); `FedRacLora` adds ``code``, which fedrac it is.
        partition_id: which of the hosts this is, from 0.
        num_partitions: how many hosts there are.
    """

    def __init__(self, workload: Mapping[str, Any], partition_id: int, num_partitions: int) -> None:
        source.check(workload.get("code", source.digest()))
        self.seed = int(workload["seed"])
        self.data = data.load(workload["data"])
        self.partition = partition.make(workload["partition"], self.data, self.seed)
        self.device = pick_device(workload["device"])
        self.dtype: torch.dtype = getattr(torch, workload["dtype"])
        self.model = models.build(workload["model"], self.seed).to(self.device, self.dtype).requires_grad_(False)
        check_model(self.model, self.data.train, self.data.task, self.device, self.dtype)
        self._place(partition_id, num_partitions)

    def _place(self, partition_id: int, num_partitions: int) -> None:
        self.clients = np.arange(partition_id, self.partition.clients, num_partitions, dtype=np.int64)

    def beside(self, partition_id: int, num_partitions: int) -> "Host":
        """Another host of the same workload in this process; it shares data and model, as one works at a time."""
        other = copy.copy(self)
        other._place(partition_id, num_partitions)
        return other

    def hosted(self) -> Hosted:
        """The clients and how many examples each has."""
        return Hosted(self.clients, self.partition.sizes[self.clients], self.partition.digest)

    def train(self, plan: RoundPlan) -> tuple[Reply, dict[int, str]]:
        """Trains the clients of ``plan``; a client whose training raises is left out, with the reason.

        Raises:
            ValueError: the sketches or the model here are not the server's.
        """
        self._load(plan.weights)
        blocks = find_blocks(self.model, plan.spec.blocks)
        sketches = draw_sketches(blocks, plan.spec.method, plan.spec.sketch, plan.spec.round)
        if sketches.digest != plan.spec.digest and not plan.sketches:
            raise ValueError(
                "the sketches rebuilt here differ from the server's (another math library?): "
                "set sketch.send=matrix, or a law that is exact everywhere: sketch.law=popcount"
            )
        values = plan.sketches or sketches.values
        # Factors stay in float32 where the rest computes in bfloat16: their updates are too small for it.
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        start = start_of_round(blocks, plan.spec.method, values, plan.factors, dtype, plan.spec.local.precondition).to(
            self.device
        )
        problem = Problem(self.model, blocks, self._loss, self._take)

        def train(clients: Sequence[int]) -> CohortResult:
            shards = [Shard(c, torch.from_numpy(self.partition.of(c))) for c in clients]
            return train_cohort(problem, start, shards, plan.spec.local, self.seed, plan.spec.round)

        return _train_all(train, plan.clients)

    @torch.no_grad()
    def evaluate(self, weights: Mapping[str, Tensor], clients: Sequence[int]) -> dict[str, list[float]]:
        """Sums of every metric over each client's own training examples, and their number (``examples``)."""
        self._load(weights)
        self.model.eval()
        columns: dict[str, list[float]] = {"examples": [float(self.partition.sizes[c]) for c in clients]}
        for client in clients:
            inputs, targets = self._take(torch.from_numpy(self.partition.of(client)))
            for name, total in task.metrics(self.data.task, self.model(inputs), targets).items():
                columns.setdefault(name, []).append(total)
        return columns

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(weights)

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return task.loss(self.data.task, outputs, targets)

    def _take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        examples = self.data.train.take(index.numpy())
        inputs = torch.from_numpy(examples.inputs).to(self.device, self.dtype)
        return inputs, torch.from_numpy(examples.targets).to(self.device)


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@torch.no_grad()
def check_model(
    model: nn.Module, examples: data.Examples, kind: data.Task, device: torch.device, dtype: torch.dtype
) -> None:
    """Before any training: the model takes an example, and its outputs fit all targets.

    Raises:
        ValueError: it does not.
    """
    one = torch.from_numpy(examples.take(np.arange(1)).inputs).to(device, dtype)
    model.eval()
    try:
        outputs = model(one)
    except RuntimeError as error:
        raise ValueError(
            f"the model does not take an example of shape {tuple(one.shape[1:])}: {error}. Set model.inputs and "
            "its like, or choose another model"
        ) from error
    task.check(kind, outputs, np.array(examples.targets))


def _train_all(train: Callable[[Sequence[int]], CohortResult], clients: Sequence[int]) -> tuple[Reply, dict[int, str]]:
    """All clients at once; if that raises, one at a time, so that a bad client costs only itself.

    Raises:
        MixedRows: the model is to blame, not a client; alone, each would train without a word.
    """
    try:
        return _reply(clients, train(clients)), {}
    except MixedRows:
        raise
    except Exception as error:
        if len(clients) == 1:
            return join([]), {clients[0]: _reason(error)}
    alone = [_train_all(train, [client]) for client in clients]
    failed = {client: reason for _, reasons in alone for client, reason in reasons.items()}
    return join([reply for reply, _ in alone if reply.clients]), failed


def _reply(clients: Sequence[int], result: CohortResult) -> Reply:
    return Reply(list(clients), result.examples.tolist(), result.losses.tolist(), result.factors)


def _reason(error: Exception) -> str:
    log.debug("a client raised", exc_info=True)
    where = f" (on {platform.node()})" if isinstance(error, OSError) else ""  # files are there on some machines only
    return f"{type(error).__name__}: {error}{where}"


@lru_cache(maxsize=2)
def _loaded(workload: str) -> Host:
    return Host(json.loads(workload), 0, 1)


def host_of(workload: Mapping[str, Any], context: Context) -> Host:
    """The host that this node is, by its ``partition-id`` and ``num-partitions``; loaded once a process."""
    config = context.node_config
    try:
        place, count = int(config["partition-id"]), int(config["num-partitions"])
    except KeyError as missing:
        raise ValueError(
            f"node-config has no {missing}: start the SuperNode with --node-config 'partition-id=0 num-partitions=2'"
        ) from None
    if not 0 <= place < count:
        raise ValueError(f"node-config partition-id={place} must lie in 0 .. {count - 1} (num-partitions={count})")
    return _loaded(json.dumps(workload)).beside(place, count)


def answering(answer: Answer) -> Callable[[Message, Context], Message]:
    """A ClientApp function from one that returns content: whatever it raises becomes the answer's reason."""

    @wraps(answer)
    def handle(message: Message, context: Context) -> Message:
        try:
            content = answer(message, context)
        except Exception as error:
            content = RecordDict({"error": ConfigRecord({"reason": _reason(error)})})
        return Message(content, reply_to=message)

    return handle
