"""What hosts and clients already have of the server's state, and so what a message to them must carry."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flwr.app import RecordDict
from torch import Tensor

from fedrac.algorithm.state import ServerState
from fedrac.protocol import node_state, state_digest
from fedrac.protocol.connected_clients import Hosted
from fedrac.protocol.messages import encode_update, to_record
from fedrac.protocol.sparse import encode_start
from fedrac.protocol.state_log import StateLog, Step


class Downloads:
    """Keeps account of a run's hosts; a new run, or one that goes on after a stop, starts with what they offer.

    Args:
        initial: the weights before round 1, which hosts may be able to build.
        state: where the run stands.
        replays: whether hosts can rebuild the sketches, and so replay rounds.
        density: which share of the carried factors is sent, anew in every message; hosts then have the weights alone,
            and replay nothing. None: carried factors are part of the state that they follow.
    """

    def __init__(
        self, initial: Mapping[str, Tensor], state: ServerState, replays: bool, density: float | None = None
    ) -> None:
        self._chain, self._density = StateLog(ServerState(0, initial, {}), replays and density is None), density
        self._whole = self._chain.tip  # the server's state, also where hosts have a part of it
        self._kept: dict[int, str] = {}  # by node id, the digest of what it keeps
        self._reached: dict[int, str] = {}  # by client, the digest of what it was last sent
        self._cannot_replay: set[int] = set()
        self._helped: dict[int, str] = {}  # by node id, the digest of the state for which it was sent more
        self._behind: dict[int, str] = {}  # by node id, what a process of it had that could not use what it was sent
        self.move(state)

    def is_at(self, state: ServerState) -> bool:
        """Whether messages bring hosts to this state."""
        tip = self._whole.state
        return tip.weights is state.weights and tip.factors is state.factors

    @property
    def digest(self) -> str:
        """Of the server's state."""
        return self._whole.digest

    def move(self, state: ServerState, step: Step | None = None) -> None:
        """The server has made a step, or has its state from elsewhere."""
        if self._density is None:
            self._chain.add(state, step)
            self._whole = self._chain.tip
        else:
            self._whole = state_digest.take(state, self._whole)
            self._chain.add(replace(state, factors={}, moments={}))
            self._start = encode_start(state.factors, self._density)
        self._encoded: dict[tuple[str, bool], RecordDict] = {}
        self._sizes: dict[tuple[str, bool], int] = {}
        node_state.remember(self._chain.tip)

    def content(self, node: int, hosted: Hosted) -> RecordDict:
        """What brings a host to the state; the same object for all hosts that need the same."""
        return self._content(self._base(node, hosted), node not in self._cannot_replay)

    def more(self, node: int, hosted: Hosted, reason: str, offers: Sequence[str]) -> tuple[RecordDict, int]:
        """What brings a host to the state that could not make it of what it was sent, and its bytes.

        It starts from the newest of ``offers``. A simulated node has more processes than one: what is sent now may come
        to another one, which has less, so a second time all of it is sent; the one that asked is served next time.
        """
        self._kept.pop(node, None)
        if reason == "differs":
            self._cannot_replay.add(node)
        base = "" if self._helped.get(node) == self._chain.tip.digest else self._chain.newest(offers)
        self._helped[node] = self._chain.tip.digest
        if hosted.partition and base:
            self._behind[node] = base
        replay = node not in self._cannot_replay
        return self._content(base, replay), self._size(base, replay)

    def count(self, node: int, hosted: Hosted, clients: Sequence[int]) -> int:
        """Bytes that `content` brings the clients of one host, as ``download_bytes`` counts them.

        A node with data of its own is one client, and its message is what it is. Of a host that simulates clients, each
        counts as if it were such a node, which keeps what it was sent last.
        """
        if not hosted.partition:
            return len(clients) * self._size(self._base(node, hosted), node not in self._cannot_replay)
        reached = Counter(self._reached.get(client, "") for client in clients)  # many have what many others have
        return sum(self._size(self._chain.newest([hosted.initial, base])) * n for base, n in reached.items())

    def first(self, hosted: Hosted) -> int | None:
        """What the clients of a host have that was never sent anything: 0, the state before round 1; None: nothing."""
        return 0 if self._chain.newest([hosted.initial]) else None

    def landed(self, node: int, clients: Sequence[int], kept: bool) -> None:
        """A host has answered: it and its clients were sent the state."""
        digest = self._chain.tip.digest
        self._reached |= dict.fromkeys(clients, digest)
        if kept:
            self._kept[node] = self._behind.pop(node, digest)

    def _base(self, node: int, hosted: Hosted) -> str:
        kept = [self._kept[node]] if node in self._kept else []
        return self._chain.newest([hosted.initial, *hosted.offers, *kept])

    def _size(self, base: str, replay: bool = True) -> int:
        if (base, replay) not in self._sizes:
            start = 0 if self._density is None else self._start.nbytes
            self._sizes[base, replay] = self._chain.size_from(base, replay) + start
        return self._sizes[base, replay]

    def _content(self, base: str, replay: bool) -> RecordDict:
        if (base, replay) not in self._encoded:
            content = encode_update(self._chain.update_from(base, replay))
            if self._density is not None:
                content["start"] = to_record({"factors": self._start})
            self._encoded[base, replay] = content
        return self._encoded[base, replay]
