"""A client's side of secure aggregation: keys, shares, a masked update, and shares again; nothing is done twice.

What a node remembers between the messages of a round lies in Flower's ``Context.state``, which never leaves it. Of a
client's secrets it tells shares alone, sealed for the client that holds them, and in the end of every client one of
two: that of its own mask, if its update counts, or that of its key for pairwise masks, if it dropped out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fedrac.loading.told import told
from fedrac.protocol import masking
from fedrac.protocol.masking import BOX, KEY, SHARE, Secrets
from fedrac.protocol.secure_messages import NAME, encode, flat, ids, lists, of_kind, one

Keys = Mapping[int, tuple[bytes, bytes]]


@dataclass(frozen=True)
class Party:
    """One client in one round.

    Attributes:
        secret: all its secrets follow from it.
        least: how many shares bring a secret back.
        holders: the clients that hold its shares, and whose it holds: those it shares masks with, and itself.
        own: its shares of its own secrets.
        boxes: by sender, the sealed shares that it holds; it shares masks with these clients.
    """

    secret: str
    least: int = 0
    holders: Sequence[int] = ()
    own: str = ""
    boxes: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """What a node remembers of a round.

    Attributes:
        round: its number.
        done: the last thing that was asked: ``keys``, ``shares``, ``mask``, ``unmask``.
        parties: its clients, by id.
        keys: public keys, for masks and for shares, of all clients that they have to do with.
    """

    round: int
    done: str
    parties: Mapping[int, Party]
    keys: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def keep(self, state: RecordDict) -> None:
        """Writes it into what Flower keeps of the run on this node."""
        state.config_records[NAME] = ConfigRecord({"memory": json.dumps(self, default=vars)})

    @classmethod
    def recall(cls, state: RecordDict, round_: int, done: str) -> "Memory":
        """
        Raises:
            ValueError: the node is somewhere else than it would have to be.
        """
        raw = json.loads(str(state.config_records.get(NAME, ConfigRecord({"memory": "{}"}))["memory"]))
        if (raw.get("round"), raw.get("done")) != (round_, done):
            there = f"round {raw['round']}, {raw['done']}" if raw else "nothing"
            raise _wrong(f"asked for what follows round {round_}, {done}; here was {there}")
        parties = {
            int(client): Party(**{**party, "boxes": {int(k): v for k, v in party["boxes"].items()}})
            for client, party in raw["parties"].items()
        }
        return cls(raw["round"], raw["done"], parties, {int(k): v for k, v in raw["keys"].items()})

    def public(self, client: int) -> tuple[bytes, bytes]:
        """The keys of a client."""
        first, second = self.keys[client]
        return bytes.fromhex(first), bytes.fromhex(second)


def answer(asked: Mapping[str, Any], state: RecordDict) -> RecordDict:
    """What a node answers to the ``step`` that the server asks for.

    Raises:
        ValueError, KeyError, TypeError: it is not what must come next, or makes no sense.
    """
    steps = {"keys": _answer_keys, "shares": _answer_shares, "unmask": _answer_unmask}
    return steps[one(asked, "step", str)](asked, state)


def _answer_keys(asked: Mapping[str, Any], state: RecordDict) -> RecordDict:
    """New keys of the node's clients; what was known of another round is forgotten."""
    round_, clients = one(asked, "round", int), ids(asked, "clients")
    parties = {client: Party(masking.new_secret().hex()) for client in clients}
    Memory(round_, "keys", parties).keep(state)
    return encode(round=round_, **flat("keys", {c: _secrets(party).public for c, party in parties.items()}))


def _answer_shares(asked: Mapping[str, Any], state: RecordDict) -> RecordDict:
    """Sealed shares of the secrets of the node's clients, for those that hold them.

    Raises:
        ValueError: the keys or those that are to hold shares are not what they must be.
    """
    memory = Memory.recall(state, one(asked, "round", int), "keys")
    table, holders = lists(asked, "keys", bytes), lists(asked, "holders", int)
    least = dict(zip(ids(asked, "holders_of"), of_kind(asked, "least", int), strict=True))
    _check_keys(table)
    boxes: dict[int, list[bytes]] = {}
    commitments: dict[int, list[bytes]] = {}
    parties = {}
    for client in sorted(set(memory.parties) & set(holders)):  # the others are left out
        party = replace(memory.parties[client], least=least[client], holders=holders[client])
        _check_holders(client, party, table)
        boxes[client], commitments[client], own = _shared(memory.round, client, party, table)
        parties[client] = replace(party, own=own.hex())
    known = {client: [key.hex() for key in pair] for client, pair in table.items()}
    Memory(memory.round, "shares", parties, known).keep(state)
    return encode(round=memory.round, **flat("boxes", boxes), **flat("commitments", commitments))


def _check_keys(table: Mapping[int, Sequence[bytes]]) -> None:
    """Raises ValueError if one of the public keys is none, or there twice."""
    everything = [key for pair in table.values() for key in pair]
    if any(len(pair) != 2 for pair in table.values()) or any(len(key) != KEY for key in everything):
        raise _wrong("a client has other than two public keys of 32 bytes")
    if len(set(everything)) < len(everything):
        raise _wrong("a public key is there twice")


def _check_holders(client: int, party: Party, table: Mapping[int, Sequence[bytes]]) -> None:
    """Raises ValueError if a client would share its secrets with whom it should not, or too easily."""
    holders = party.holders
    if sorted(set(holders)) != list(holders) or client not in holders or not set(holders) <= set(table):
        raise _wrong(f"client {client} would share with others than have keys")
    if tuple(table[client]) != _secrets(party).public:
        raise _wrong(f"the keys of client {client} are not those that it gave")
    if len(holders) < 2 or not len(holders) // 2 < party.least <= len(holders):
        raise _wrong(
            f"{party.least} of {len(holders)} clients would bring back the secrets of client {client}, and it must be "
            "more than half of at least two"
        )


def _shared(
    round_: int, client: int, party: Party, table: Mapping[int, Sequence[bytes]]
) -> tuple[list[bytes], list[bytes], bytes]:
    """For each holder but the client itself a box; for each a commitment to both shares, and to the seed; its own."""
    secrets, holders, least = _secrets(party), party.holders, party.least
    pairs = list(
        zip(*(masking.split(seed, least, len(holders)) for seed in (secrets.own_seed, secrets.key_seed)), strict=True)
    )
    boxes, own = [], b""
    for holder, (of_own, of_key) in zip(holders, pairs, strict=True):
        if holder == client:
            own = of_own + of_key
            continue
        try:
            boxes.append(masking.seal(secrets.channel, table[holder][1], (round_, client, holder), of_own + of_key))
        except ValueError as error:
            raise _wrong(f"the public key of client {holder} is none") from error
    commitments = [masking.commitment(share) for pair in pairs for share in pair]
    return boxes, [*commitments, masking.commitment(secrets.own_seed)], own


def masked(round_: int, asked: Mapping[str, Any], words: Mapping[int, Tensor], state: RecordDict) -> dict[int, Tensor]:
    """Updates under masks, which look like noise one by one.

    Args:
        round_: its number.
        asked: the boxes for the node's clients.
        words: by client, (length,) of an integer dtype; those of clients that failed are not there.
        state: of the node.

    Raises:
        ValueError: too few clients share masks with one of them, or it is masked already.
    """
    memory = Memory.recall(state, round_, "shares")
    senders, boxes = lists(asked, "senders", int), lists(asked, "boxes", bytes)
    parties, found = {}, {}
    for client, word in words.items():
        party = memory.parties[client]
        given = dict(zip(senders[client], boxes[client], strict=True))
        _check_boxes(client, party, given)
        others = {other: memory.public(other)[0] for other in sorted(given)}
        secrets, length = _secrets(party), len(word)
        under = masking.pairwise(secrets.mask_key, client, others, length, word.dtype)
        found[client] = word + under + masking.mask(secrets.own_seed, length, word.dtype)
        parties[client] = replace(party, boxes={other: box.hex() for other, box in given.items()})
    Memory(memory.round, "mask", parties, memory.keys).keep(state)
    return found


def _check_boxes(client: int, party: Party, given: Mapping[int, bytes]) -> None:
    if not set(given) <= set(party.holders) - {client} or any(len(box) != BOX for box in given.values()):
        raise _wrong(f"shares for client {client} come from others than it shares with")
    if len(given) + 1 < party.least:
        raise _wrong(
            f"{len(given) + 1} of the {len(party.holders)} clients around client {client} are "
            f"there, and {party.least} are needed"
        )


def _answer_unmask(asked: Mapping[str, Any], state: RecordDict) -> RecordDict:
    """Of every client that the node's clients hold shares of, one share: of its own mask if it is among the survivors,
    of its key if it dropped out, never both.

    Raises:
        ValueError: the survivors are too few, or some of them dropped out.
    """
    memory = Memory.recall(state, one(asked, "round", int), "mask")
    survivors, dropped = ids(asked, "survivors"), ids(asked, "dropped")
    if set(survivors) & set(dropped):
        raise _wrong("a client cannot both have dropped out and not")
    shares = {}
    for client in ids(asked, "clients"):
        shares[client] = _opened(client, memory, set(survivors), set(dropped))
    Memory(memory.round, "unmask", {}).keep(state)
    owners = flat("owners", {client: list(held) for client, held in shares.items()})
    return encode(
        round=memory.round, **owners, **flat("shares", {c: list(held.values()) for c, held in shares.items()})
    )


def _opened(client: int, memory: Memory, survivors: set[int], dropped: set[int]) -> dict[int, bytes]:
    """By owner, the share that is asked for; not of owners whose box cannot be opened."""
    party = memory.parties[client]
    if client not in survivors or len(survivors & set(party.holders)) < party.least:
        raise _wrong(
            f"{len(survivors & set(party.holders))} of the {len(party.holders)} clients around "
            f"client {client} are left, and {party.least} are needed"
        )
    found = {client: bytes.fromhex(party.own)[:SHARE]}
    for other, box in party.boxes.items():
        if other not in survivors | dropped:
            continue
        pair = masking.unseal(
            _secrets(party).channel, memory.public(other)[1], (memory.round, other, client), bytes.fromhex(box)
        )
        if pair is not None:
            found[other] = pair[:SHARE] if other in survivors else pair[SHARE:]
    return found


def _wrong(text: str) -> ValueError:
    """The server may be told: it speaks of no data."""
    return told(ValueError(f"secure aggregation: {text}"))


def _secrets(party: Party) -> Secrets:
    return Secrets.of(bytes.fromhex(party.secret))
