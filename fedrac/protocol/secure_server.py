"""The server's side of secure aggregation: it passes keys and shares on, and learns a sum.

The protocol is SecAgg of Bonawitz et al. ("Practical secure aggregation for privacy-preserving machine learning", 2017)
on the graph of Bell et al. ("Secure single-server aggregation with (poly)logarithmic overhead", 2020), for a server
that keeps to it and is curious. In every round

1. each client gives two public keys,
2. shares its two secrets among its neighbours on a random graph, in boxes that the server cannot open,
3. sends its update under the masks that it shares with them, and one of its own;
4. those who are left tell one share of each client: of its own mask if its update came, of its key for the others.

The masks cancel in the sum of all who came. What is wrong in an answer costs its client; what would leave a mask in
the sum fails the round.
"""

import json
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Message, RecordDict
from torch import Tensor

from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.algorithm.streams import Stream
from fedrac.protocol import masking, secure_answers
from fedrac.protocol.masking import BOX, KEY, SEED
from fedrac.protocol.node_values import line
from fedrac.protocol.replies import Refusal, content_of
from fedrac.protocol.round_report import CohortFailure
from fedrac.protocol.secure_messages import KIND, NAME, encode, flat

log = logging.getLogger(__name__)

Ask = Callable[[Iterable[Message]], list[Message]]
Take = Callable[[int, Mapping[str, Any]], None]
Shares = dict[int, dict[int, bytes]]
_FAULTS = (ValueError, KeyError, TypeError, OverflowError)


class SecureRound:
    """One sum over clients of which the server sees no summand.

    Args:
        spec: threshold and neighbours.
        round_: its number.
        hosts: node ids with their clients of the round.

    Attributes:
        hosts: those of them that share masks.
        refused: clients that are left out, by node.
        up, down: bytes of keys, boxes and shares so far, summed over clients, each as if it were a node of its own.
    """

    def __init__(self, spec: SecureSpec, round_: int, hosts: Mapping[int, Sequence[int]]) -> None:
        self._spec, self._round = spec, round_
        self.hosts = {node: list(clients) for node, clients in hosts.items()}
        self.refused: list[tuple[int, Refusal]] = []
        self.up = self.down = 0
        self._keys: dict[int, list[bytes]] = {}
        self._holders: dict[int, list[int]] = {}
        self._boxes: dict[int, dict[int, bytes]] = {}  # by who holds it, then by sender
        self._commitments: dict[int, list[bytes]] = {}

    @property
    def clients(self) -> list[int]:
        """Those that share masks, ascending."""
        return sorted(client for held in self.hosts.values() for client in held)

    # --- keys and shares --------------------------------------------------------------------------------------------

    def agree(self, workload: Mapping[str, Any], seed: int, ask: Ask) -> None:
        """The first two steps.

        Args:
            workload: data, partition and model, as `fedrac.flower.host.Host` reads them.
            seed: of the graph.
            ask: sends messages and waits for the answers.

        Raises:
            CohortFailure: too few clients are left around one of them.
        """
        self._collect_keys(json.dumps(dict(workload)), ask)
        self._holders = graph(self.clients, self._spec.neighbours, seed, self._round)
        self._collect_shares(ask)
        self._check_left(self.clients, self.clients)

    def _collect_keys(self, workload: str, ask: Ask) -> None:
        def take(node: int, answer: Mapping[str, Any]) -> None:
            self._keys |= secure_answers.keys(answer, self.hosts[node])

        about = {"step": "keys", "round": self._round, "workload": workload}
        silent = self._ask(ask, {node: encode(**about, clients=held) for node, held in self.hosts.items()}, take)
        for node, reason in silent.items():
            self._leave_out(node, self.hosts[node], reason)
        self.up += 2 * KEY * len(self._keys)
        twice = secure_answers.twice(self._keys)
        for node, clients in list(self.hosts.items()):
            if same := [client for client in clients if client in twice]:
                self._leave_out(node, same, "a public key is there twice")

    def _collect_shares(self, ask: Ask) -> None:
        sent: dict[int, dict[int, bytes]] = {}

        def take(node: int, answer: Mapping[str, Any]) -> None:
            boxes, commitments = secure_answers.shares(answer, self.hosts[node], self._holders)
            for client in self.hosts[node]:
                others = [holder for holder in self._holders[client] if holder != client]
                sent[client] = dict(zip(others, boxes[client], strict=True))
                self._commitments[client] = commitments[client]
                self.up += len(others) * (BOX + 2 * SEED) + 3 * SEED

        silent = self._ask(ask, {node: self._neighbours(held) for node, held in self.hosts.items()}, take)
        for node, reason in silent.items():
            self._leave_out(node, self.hosts[node], reason)
        for client in self.clients:
            senders = (sender for sender in self._holders[client] if sender != client and sender in sent)
            self._boxes[client] = {sender: sent[sender][client] for sender in senders}

    def _neighbours(self, clients: Sequence[int]) -> RecordDict:
        """For clients of one node: among whom they share, and the keys of these."""
        holders = {client: self._holders[client] for client in clients}
        least = [self._spec.least(len(held)) for held in holders.values()]
        self.down += sum(map(len, holders.values())) * 2 * KEY
        needed = sorted({holder for held in holders.values() for holder in held})
        keys = flat("keys", {client: self._keys[client] for client in needed})
        return encode(step="shares", round=self._round, least=least, **keys, **flat("holders", holders))

    def content(self, clients: Sequence[int]) -> RecordDict:
        """What clients of one node are sent together with what they are to answer under masks."""
        senders = {client: list(self._boxes[client]) for client in clients}
        self.down += sum(map(len, senders.values())) * BOX
        boxes = {client: list(self._boxes[client].values()) for client in clients}
        return encode(**flat("senders", senders), **flat("boxes", boxes))

    # --- the sum ----------------------------------------------------------------------------------------------------

    def unmask(self, masked: Mapping[int, Tensor], ask: Ask) -> Tensor:
        """The last step: the sum of the updates that came, (length,), without masks, modulo what their dtype holds.

        Args:
            masked: by client, (length,) words.
            ask: sends messages and waits for the answers.

        Raises:
            CohortFailure: too few are left to take a mask away, or a client shared what is not its secret.
        """
        survivors, total = sorted(masked), masked[min(masked)] * 0
        dropped = [client for client in self.clients if client not in masked]
        self._check_left(survivors, survivors)
        shares = self._collect_openings(survivors, dropped, ask)
        for client in survivors:
            seed = self._seed(client, shares[client], "mask")
            if masking.commitment(seed) != self._commitments[client][-1]:
                raise self._failure(f"client {client} shared what is not the seed of its mask")
            total += masked[client] - masking.mask(seed, len(total), total.dtype)
        for client in dropped:
            if others := {other: self._keys[other][0] for other in self._boxes[client] if other in masked}:
                key = masking.mask_key(self._seed(client, shares[client], "key"))
                if key.public_key().public_bytes_raw() != self._keys[client][0]:
                    raise self._failure(f"client {client}, which dropped out, had shared what is not its key")
                total += masking.pairwise(key, client, others, len(total), total.dtype)
        return total

    def _collect_openings(
        self, survivors: Sequence[int], dropped: Sequence[int], ask: Ask
    ) -> dict[int, dict[int, bytes]]:
        """By owner, the good shares of what is to be known of it, by place."""
        found: Shares = {client: {} for client in self.clients}
        came = set(survivors)
        left = {node: [c for c in clients if c in came] for node, clients in self.hosts.items()}

        def take(node: int, answer: Mapping[str, Any]) -> None:
            for client, owner, share in secure_answers.openings(answer, left[node], self._holders):
                self.up += len(share)
                place = bisect_left(self._holders[owner], client)
                if masking.commitment(share) == self._commitments[owner][2 * place + (owner not in came)]:
                    found[owner][place] = share
                else:
                    log.warning("round %d: what client %d gives is no share of client %d", self._round, client, owner)

        about = {"step": "unmask", "round": self._round, "survivors": survivors, "dropped": dropped}
        contents = {node: encode(**about, clients=clients) for node, clients in left.items() if clients}
        for node, reason in self._ask(ask, contents, take).items():
            log.warning("round %d: node %s gives no shares: %s", self._round, node, reason)
        return found

    def _seed(self, client: int, shares: Mapping[int, bytes], what: str) -> bytes:
        """Brings back a secret of a client: of its own mask, or of its key."""
        least = self._spec.least(len(self._holders[client]))
        if len(shares) < least:
            raise self._failure(f"{len(shares)} good shares of the {what} of client {client}, and {least} are needed")
        return masking.combine(dict(sorted(shares.items())[:least]))

    # --- both -------------------------------------------------------------------------------------------------------

    def _ask(self, ask: Ask, contents: Mapping[int, RecordDict], take: Take) -> dict[int, str]:
        """Asks nodes and takes what they answer; returns why nodes have given no answer that counts."""
        messages = [Message(content, node, KIND, group_id=str(self._round)) for node, content in contents.items()]
        reasons = dict.fromkeys(contents, "no reply in time")
        for answer in ask(messages):
            if (node := answer.metadata.src_node_id) not in reasons:
                log.warning("round %d: node %s answered twice or unasked", self._round, node)
                continue
            try:
                take(node, content_of(answer).config_records[NAME])
                del reasons[node]
            except _FAULTS as error:
                reasons[node] = line(f"field {error} is missing" if isinstance(error, KeyError) else error)
        return reasons

    def _leave_out(self, node: int, clients: Sequence[int], reason: str) -> None:
        self.refused.append((node, Refusal(list(clients), reason)))
        self.hosts[node] = [client for client in self.hosts[node] if client not in clients]
        if not self.hosts[node]:
            del self.hosts[node]

    def _check_left(self, clients: Sequence[int], left: Sequence[int]) -> None:
        """Raises CohortFailure if too few are left of those who hold the shares of one of ``clients``."""
        there = set(left)
        for client in clients:
            count, holders = len(there & set(self._holders[client])), len(self._holders[client])
            if count < (least := self._spec.least(holders)):
                raise self._failure(
                    f"{count} of the {holders} clients that hold the secrets of client {client} are left, and "
                    f"secure_aggregation.threshold={self._spec.threshold} needs {least}"
                )

    def _failure(self, reason: str) -> CohortFailure:
        refusals = "".join(f" {refusal}." for _, refusal in self.refused[:5])
        return CohortFailure(
            f"round {self._round}: {reason}. Its sum stays unknown and the weights as they are.{refusals}"
        )


def graph(clients: Sequence[int], neighbours: int, seed: int, round_: int) -> dict[int, list[int]]:
    """By client, who holds its shares, ascending: itself, and the nearest ``neighbours`` on a circle in random order.

    Args:
        clients: ids, ascending.
        neighbours: an even number; all clients where there are not more.
        seed: of the order.
        round_: the order is another one in each.
    """
    if neighbours >= len(clients) - 1:
        return {client: list(clients) for client in clients}
    order = [clients[place] for place in Stream(seed, "neighbours", round_).permutation(len(clients))]
    around = range(-neighbours // 2, neighbours // 2 + 1)
    return {c: sorted(order[(place + step) % len(order)] for step in around) for place, c in enumerate(order)}
