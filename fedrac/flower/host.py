"""A host serves clients: it loads their data once, and trains or tests them when asked."""

import copy
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedrac import data
from fedrac.algorithm.blocks import Block, find_blocks, sent_shapes
from fedrac.algorithm.round_start import draw_sketches, start_of_round
from fedrac.algorithm.state import ServerState
from fedrac.algorithm.streams import Index
from fedrac.data import standard
from fedrac.data.batch import Batch, Rows, batches
from fedrac.data.own import load as load_own
from fedrac.data.tokens import Tokens
from fedrac.flower import one_model
from fedrac.loading import limits
from fedrac.loading.told import text_of, told
from fedrac.models.weights import use
from fedrac.partition import partition
from fedrac.protocol import code_digest
from fedrac.protocol.connected_clients import Hosted
from fedrac.protocol.messages import RoundPlan, Shapes
from fedrac.protocol.node_state import Initial
from fedrac.protocol.own_state import Own
from fedrac.protocol.replies import Reply, join
from fedrac.training import evaluation, threads, work
from fedrac.training.local import CohortResult, train_cohort
from fedrac.training.logit_adjustment import adjusted
from fedrac.training.low_bits import LowBitWeights
from fedrac.training.model_check import check_model
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import KnownWays, Shard, TrainingSetup
from fedrac.training.way import Refused

log = logging.getLogger(__name__)

_ROWS = 1000  # that are tested at once: a node may have more than fit into memory with their activations


class Host:
    """The clients ``c`` of a workload with ``c mod num_partitions == partition_id``; or, where every node has data of
    its own (``partition.scheme`` is ``nodes``), the one client ``partition_id``.

    Args:
        workload: ``data``, ``partition`` and ``model`` (each with what its loader takes), ``seed``, ``dtype`` of the
            computation, ``device`` (``auto``, ``cpu``, ``cuda``, ...), ``base_bits`` where weights are held in few bits
            (`fedrac.training.low_bits`); `FedRacLora` adds ``code``, which fedrac it is.
        partition_id: which of the hosts this is, from 0.
        num_partitions: how many hosts there are.
        own: a node's own data, a place as `fedrac.data.own.load` takes it.
        tell_examples: the server is told of at most so many examples of a client.
        least: clients with fewer examples are not served.

    Raises:
        ValueError: another fedrac than the server's, data that do not fit the model, or ``own`` data in a workload that
            divides common ones, or none where it needs them; or no client has enough examples.
    """

    def __init__(
        self,
        workload: Mapping[str, Any],
        partition_id: int,
        num_partitions: int,
        own: str | None = None,
        tell_examples: int | None = None,
        least: int = 1,
    ) -> None:
        code_digest.check(workload.get("code", code_digest.digest()))
        self.seed, self._own, self._told, self._least = int(workload["seed"]), own, tell_examples, least
        self.data, self.partition = _holding(workload, partition_id, own)
        self._agrees = workload["data"].get("standardize") == standard.AGREED
        self.device = pick_device(workload["device"])
        self.dtype: torch.dtype = getattr(torch, workload["dtype"])
        with _telling():  # it has not seen the data
            built = one_model.of_host(workload)
        kept = None if built.is_offered else built.in_master_dtype
        self.initial = Initial(partial(_initial_weights, workload), built.digest, kept)
        self.model = built.model.to(self.device, self.dtype).requires_grad_(False)
        with _telling("the model does not fit the data: check model.inputs, model.outputs and data.classes"):
            check_model(self.model, self.data.train, self.data.task, self.device, self.dtype)
        with _telling():
            bits = workload.get("base_bits")
            self._low_bits = LowBitWeights(self.model, bits) if bits else None
        self._rows, self._ways = Rows(self.data.train, self.device, self.dtype), KnownWays()
        # Shared with the hosts `beside` this one; asked for the same blocks in every round of a run.
        self._find = lru_cache(maxsize=1)(partial(_blocks_of, self.model))
        self._of_a_row = cache(partial(work.of_a_row, self.model, self.data.train))
        self._place(partition_id, num_partitions)

    def _place(self, partition_id: int, num_partitions: int) -> None:
        self._first, self._every = partition_id, num_partitions
        self.__dict__.pop("clients", None)  # those of the host that this is a copy of
        if self._least > 1 and not len(self.clients):
            raise limits.Refused("no client here has enough examples", "least_examples")

    @cached_property
    def clients(self) -> Index:
        """Ids of those that are served here, ascending, (k,); made when asked for: there may be a million."""
        served = np.arange(self._first, self.partition.clients, self._every, dtype=np.int64)
        return served[self.partition.sizes[served] >= self._least]

    def beside(self, partition_id: int, num_partitions: int) -> "Host":
        """Another host of the same workload in this process; it shares data and model, as one works at a time."""
        other = copy.copy(self)
        other._place(partition_id, num_partitions)
        return other

    def blocks(self, plan: RoundPlan) -> Sequence[Block]:
        """The trained parameters that the server describes, as it does in every round of a run.

        Raises:
            ValueError: the model here is not the server's.
        """
        with _telling():
            return self._find(tuple(tuple(block.items()) for block in plan.spec.blocks))

    def check_served(self, clients: Sequence[int]) -> None:
        """Raises ValueError if a client is named twice, or not served here."""
        ids = np.asarray(clients, np.int64)
        here = (ids >= self._first) & (ids < self.partition.clients) & ((ids - self._first) % self._every == 0)
        if not here.all() or (self.partition.sizes[ids] < self._least).any() or len(set(clients)) < len(clients):
            raise told(ValueError(f"clients {list(clients)[:5]} are not those that are served here, each once"))

    @property
    def is_own(self) -> bool:
        """Whether it is the one client of a node with data of its own."""
        return self._own is not None

    def hosted(self) -> Hosted:
        """The clients and how many examples each has."""
        common = "" if self._own else self.partition.digest  # what all hosts must have alike
        return Hosted(self.clients, np.array(self._tell(self.clients), np.int64), common)

    def _tell(self, clients: Sequence[int] | Index) -> list[int]:
        """Their numbers of examples, as far as the server may know them."""
        sizes = self.partition.sizes[np.asarray(clients, np.int64)]
        counts: list[int] = (sizes if self._told is None else np.minimum(sizes, self._told)).tolist()
        return counts

    def train(self, plan: RoundPlan, state: ServerState, own: Own | None = None) -> tuple[Reply, dict[int, str]]:
        """Trains the clients of ``plan`` from ``state``; one whose training raises is left out, with the reason.

        Args:
            plan: as the server sent it.
            state: from which the round starts.
            own: by client, what has stayed with it; its answer has what stays with it now.

        Raises:
            ValueError: the sketches or the model here are not the server's.
        """
        self._load(state.weights)
        blocks = self.blocks(plan)
        sketches = draw_sketches(blocks, plan.spec.method, plan.spec.sketch, plan.spec.round, state.basis)
        if sketches.digest != plan.spec.digest and not plan.sketches:
            wrong = "the sketches rebuilt here differ from the server's (another math library?)"
            mend = "set sketch.send=matrix, or a law that is exact everywhere: sketch.law=popcount"
            raise told(ValueError(f"{wrong}: {mend}"))
        values = plan.sketches or sketches.values
        # Factors stay in float32 where the rest computes in bfloat16: their updates are too small for it.
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        method = plan.spec.method.at(plan.spec.round)
        theory, moments = plan.spec.local.precondition, state.moments
        begin = start_of_round(blocks, method, values, state.factors, dtype, theory, moments)
        start = begin.to(self.device)
        task, lengths = self.data.task, self._rows.lengths
        problem = TrainingSetup(self.model, blocks, task.loss, self._take, self._ways, lengths, task.gradient)

        local = plan.spec.local

        def train(clients: Sequence[int]) -> CohortResult:
            kept, rows = own or {}, self.partition
            shards = [Shard(c, torch.from_numpy(rows.of(c)), plan.ranks.get(c), kept.get(c, {})) for c in clients]
            return train_cohort(
                self._adjusted(problem, shards, local), start, shards, local, self.seed, plan.spec.round
            )

        with threads.of_a_host(partial(self._multiplications, plan)):
            reply, failed = _train_all(train, plan.clients)
        sent = sent_shapes(blocks, method)
        return replace(_parted(reply, sent, own or {}), examples=self._tell(reply.clients)), failed

    def _multiplications(self, plan: RoundPlan) -> float:
        """Of a forward pass in the plan's largest step; a GPU's cost is not that of threads."""
        if self.device.type != "cpu":
            return float("inf")
        largest = int(self.partition.sizes[np.asarray(plan.clients, np.int64)].max(initial=1))
        return self._of_a_row() * len(plan.clients) * plan.spec.local.rows_per_step(largest)

    def evaluate(self, weights: Mapping[str, Tensor], clients: Sequence[int]) -> dict[str, list[float]]:
        """Sums of every metric over each client's examples, and their number (``examples``).

        They are a node's own test examples, where it has such; else those that the client trains on.
        """
        self._load(weights)
        columns: dict[str, list[float]] = {}
        for client, count in zip(clients, self._tell(clients), strict=True):
            held = self._held_out(client)
            if len(held) < self._least:
                raise limits.Refused(f"client {client} has too few examples to be tested on", "least_examples")
            parts = batches(held, _ROWS, self.device, self.dtype)
            for name, total in evaluation.sums(self.model, self.data.task, parts).items():
                columns.setdefault(name, []).append(total * min(1.0, count / len(held)))
        return columns

    def column_sums(self) -> dict[int, Tensor]:
        """By the one client of a node with a table of its own, what `fedrac.data.standard` takes a common scale from.

        Raises:
            ValueError: the run does not ask for such a scale, or these data have no columns.
        """
        inputs = self.data.train.inputs
        if not self._own or not self._agrees or isinstance(inputs, Tokens):
            raise told(ValueError("data.standardize=agreed is for nodes with tables of their own (partition=nodes)"))
        return {int(self.clients[0]): standard.sums(inputs)}

    def _held_out(self, client: int) -> data.Examples:
        if self._own and len(self.data.test):
            return self.data.test
        return self.data.train.take(self.partition.of(client))

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        use(self.model, weights, self._low_bits.use(weights) if self._low_bits else ())

    def _adjusted(self, problem: TrainingSetup, shards: Sequence[Shard], local: LocalSpec) -> TrainingSetup:
        """With logits shifted by each client's shares of the classes, where that is wanted."""
        if not local.logit_adjustment:
            return problem
        if self.data.task.name != "classification":
            raise told(
                ValueError("local.logit_adjustment is for one label an example (classification): set it to 0 here")
            )
        labels = torch.as_tensor(np.asarray(self.data.train.targets))
        return adjusted(problem, shards, labels, self.data.outputs, local.logit_adjustment)

    def _take(self, index: Tensor) -> Batch:
        return self._rows(index)


def _initial_weights(workload: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a run without pre-training starts from."""
    return one_model.build(workload).in_master_dtype()


def _blocks_of(model: nn.Module, told: tuple[tuple[tuple[str, Any], ...], ...]) -> Sequence[Block]:
    return find_blocks(model, [dict(block) for block in told])


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _train_all(train: Callable[[Sequence[int]], CohortResult], clients: Sequence[int]) -> tuple[Reply, dict[int, str]]:
    """All clients at once; if that raises, one at a time, so that a bad client costs only itself.

    Raises:
        Refused: the model is to blame, not a client.
    """
    try:
        return _reply(clients, train(clients)), {}
    except Refused:
        raise
    except Exception as error:
        if len(clients) == 1:
            return join([]), {clients[0]: reason_of(error)}
    alone = [_train_all(train, [client]) for client in clients]
    failed = {client: reason for _, reasons in alone for client, reason in reasons.items()}
    return join([reply for reply, _ in alone if reply.clients]), failed


def _reply(clients: Sequence[int], result: CohortResult) -> Reply:
    return Reply(list(clients), result.examples.tolist(), result.losses.tolist(), result.factors)


def _parted(reply: Reply, sent: Shapes, before: Own) -> Reply:
    """What is sent, and what stays with each client; of a control that stays, the change is sent where that is due."""
    own = {key: value for key, value in reply.factors.items() if key not in sent}
    if not own:
        return reply
    kept = {c: {key: value[place].clone() for key, value in own.items()} for place, c in enumerate(reply.clients)}
    factors = {key: value for key, value in reply.factors.items() if key in sent}
    for key in sent.keys() - factors.keys():
        control = f"{key.removesuffix('c')}/control"
        was = [before.get(c, {}).get(control, torch.zeros_like(kept[c][control])) for c in reply.clients]
        factors[key] = own[control] - torch.stack(was)
    return replace(reply, factors=factors, own=kept)


def reason_of(error: Exception) -> str:
    """What a server is told of an error, in one line; the log has where it was raised."""
    if limits.current() is not None:  # the server is somebody else's
        if not isinstance(error, limits.Refused):
            log.error("a client raised", exc_info=error)
        return text_of(error)
    log.debug("a client raised", exc_info=error)
    where = f" (on {platform.node()})" if isinstance(error, OSError) else ""  # files are there on some machines only
    return f"{type(error).__name__}: {error}{where}"


@contextmanager
def _telling(text: str | None = None) -> Iterator[None]:
    """The server may be told of a ValueError in the block: its own words where ``text`` is None."""
    try:
        yield
    except ValueError as error:
        if not hasattr(error, "told"):
            told(error, text)
        raise


def _holding(workload: Mapping[str, Any], client: int, own: str | None) -> tuple[data.Data, partition.Partition]:
    """What a host reads its clients' examples from."""
    separate = workload["partition"].get("scheme") == partition.NODES
    if own is None and separate:
        wrong = "node-config names no data, and partition=nodes has every node train on its own"
        raise told(ValueError(f"{wrong}: start the SuperNode with --node-config 'partition-id=0 data=\"/data\"'"))
    if own is None:
        common = data.load(workload["data"])
        return common, partition.make(workload["partition"], common, int(workload["seed"]))
    if not separate:
        wrong = f"this node trains on its own data only ({own}), the run divides common ones: partition=nodes"
        raise told(ValueError(wrong))
    found = load_own(workload["data"], own)
    found.check_filled("train")
    return found, partition.Partition.of_one(client, len(found.train))
