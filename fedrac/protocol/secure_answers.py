"""What clients answer while they agree on masks, checked: what was asked for, or an error that says why not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedrac.protocol import masking
from fedrac.protocol.masking import BOX, SEED
from fedrac.protocol.secure_messages import lists

Record = Mapping[str, Any]
Held = Mapping[int, Sequence[int]]


def keys(answer: Record, clients: Sequence[int]) -> dict[int, list[bytes]]:
    """By client, its public keys for masks and for shares.

    Raises:
        ValueError, KeyError, TypeError: they are none, or of other clients.
    """
    found = lists(answer, "keys", bytes)
    if sorted(found) != sorted(clients):
        raise ValueError(f"field keys is of other clients than {list(clients)[:5]}")
    for pair in found.values():
        _check_pair(pair)
    return found


def _check_pair(pair: Sequence[bytes]) -> None:
    if len(pair) != 2:
        raise ValueError(f"field keys has {len(pair)} keys of a client, expected 2")
    for key in pair:
        try:
            masking.agreed(X25519PrivateKey.generate(), key, "check")
        except ValueError as error:
            raise ValueError(f"field keys: not a public key of X25519: {error}") from error


def twice(keys: Mapping[int, Sequence[bytes]]) -> set[int]:
    """Clients with a public key that is also another's, or that is both of theirs."""
    count = Counter(key for pair in keys.values() for key in pair)
    return {client for client, pair in keys.items() if any(count[key] > 1 for key in pair)}


def shares(
    answer: Record, clients: Sequence[int], holders: Held
) -> tuple[dict[int, list[bytes]], dict[int, list[bytes]]]:
    """By client, a box for every other holder; two commitments for every holder, and one to the seed.

    Raises:
        ValueError, KeyError, TypeError: something is missing, or of another size.
    """
    boxes, commitments = lists(answer, "boxes", bytes), lists(answer, "commitments", bytes)
    for client in clients:
        others = len(holders[client]) - 1
        _check_sizes("boxes", boxes[client], others, BOX)
        _check_sizes("commitments", commitments[client], 2 * others + 3, SEED)
    return boxes, commitments


def _check_sizes(name: str, values: Sequence[bytes], count: int, size: int) -> None:
    if len(values) != count or any(len(value) != size for value in values):
        raise ValueError(f"field {name} has {len(values)} entries of a client, expected {count} of {size} bytes")


def openings(answer: Record, clients: Sequence[int], holders: Held) -> list[tuple[int, int, bytes]]:
    """Shares with the client that gives each, and whose it is.

    Raises:
        ValueError, KeyError, TypeError: a client gives what it does not hold.
    """
    owners, found = lists(answer, "owners", int), lists(answer, "shares", bytes)
    given = [(c, *pair) for c in clients for pair in zip(owners[c], found[c], strict=True)]
    for client, owner, _ in given:
        if owner not in holders or client not in holders[owner]:
            raise ValueError(f"field owners has {owner}, whose shares client {client} does not hold")
    return given
