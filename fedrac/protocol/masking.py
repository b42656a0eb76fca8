"""The primitives of secure aggregation: keys, masks, sealed boxes, shares.

X25519, HKDF-SHA-256, AES-256-CTR and ChaCha20-Poly1305 are those of ``cryptography``. Flower's SecAgg+
(`flwr.common.secure_aggregation`) calls the same library, but its generator of masks folds every seed to 32 bits (any
server could try them all) and never draws the largest number, and its keys are of P-384, fourteen times as slow as
X25519. So the library is called here as it calls it, without those two.

Shamir's sharing ("How to share a secret", 1979) is arithmetic on integers modulo a prime. PyCryptodome's, which Flower
calls, takes GF(2^128), bit by bit in Python, a hundred times as long: most of what a round cost.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

KEY = 32  # bytes of a public key
SEED = 16  # bytes of what is shared: as strong as X25519
SHARE = SEED + 1  # bytes of a share: a number below PRIME
PRIME = 2**128 + 51  # the least that is larger than all seeds
BOX = 2 * SHARE + 16  # bytes of a sealed pair of shares
_NUMPY = {torch.int8: np.int8, torch.int16: np.int16, torch.int32: np.int32, torch.int64: np.int64}


def new_secret() -> bytes:
    """From the operating system: no seed of a run leads to it."""
    return os.urandom(KEY)


def _derived(secret: bytes, purpose: str, length: int = KEY) -> bytes:
    return HKDF(hashes.SHA256(), length, None, f"fed-rac-lora/{purpose}/v1".encode()).derive(secret)


@dataclass(frozen=True)
class Secrets:
    """What one client has for one round; all of it follows from one secret.

    Attributes:
        channel: X25519 key with which shares are sealed; nobody else ever has it.
        key_seed: `SEED` bytes that the key for pairwise masks follows from; found again if the client drops out.
        own_seed: `SEED` bytes that its own mask follows from; found again if it does not.
    """

    channel: X25519PrivateKey
    key_seed: bytes
    own_seed: bytes

    @classmethod
    def of(cls, secret: bytes) -> "Secrets":
        """All that follows from ``secret``, `KEY` bytes."""
        channel = X25519PrivateKey.from_private_bytes(_derived(secret, "channel"))
        return cls(channel, _derived(secret, "key seed", SEED), _derived(secret, "own seed", SEED))

    @property
    def mask_key(self) -> X25519PrivateKey:
        """Of the pairwise masks."""
        return mask_key(self.key_seed)

    @property
    def public(self) -> tuple[bytes, bytes]:
        """The public keys for masks and for shares."""
        return self.mask_key.public_key().public_bytes_raw(), self.channel.public_key().public_bytes_raw()


def mask_key(key_seed: bytes) -> X25519PrivateKey:
    """The key of the pairwise masks that follows from a seed."""
    return X25519PrivateKey.from_private_bytes(_derived(key_seed, "mask key"))


def agreed(own: X25519PrivateKey, other: bytes, purpose: str) -> bytes:
    """What two clients have in common.

    Raises:
        ValueError: ``other`` is no public key, or one with which everybody would agree on the same.
    """
    if len(other) != KEY:
        raise ValueError(f"a public key has {len(other)} bytes, expected {KEY}")
    return _derived(own.exchange(X25519PublicKey.from_public_bytes(other)), purpose)


def mask(seed: bytes, length: int, dtype: torch.dtype) -> Tensor:
    """(length,) words, uniform over all values of ``dtype``: AES-256-CTR under a key that follows from ``seed``."""
    kind = np.dtype(_NUMPY[dtype])
    stream = Cipher(algorithms.AES(_derived(seed, "mask")), modes.CTR(bytes(16))).encryptor()
    raw = bytearray(stream.update(bytes(length * kind.itemsize)))
    return torch.from_numpy(np.frombuffer(raw, kind.newbyteorder("<")).astype(kind, copy=False))


def pairwise(
    own: X25519PrivateKey, client: int, others: Mapping[int, bytes], length: int, dtype: torch.dtype
) -> Tensor:
    """The sum of the masks that ``client`` shares with ``others``, by id their public keys.

    Of two clients, the one with the lesser id adds what the other one takes away.
    """
    total = torch.zeros(length, dtype=dtype)
    for other, key in others.items():
        word = mask(agreed(own, key, "pair"), length, dtype)
        total = total + word if client < other else total - word
    return total


def split(seed: bytes, least: int, holders: int) -> list[bytes]:
    """A seed in ``holders`` shares, of which ``least`` bring it back, and fewer say nothing.

    The shares are the values of a polynomial of degree ``least - 1`` modulo `PRIME`, random but for its value at 0, the
    seed; the i-th share (from 0) is that at i + 1.
    """
    coefficients = [secrets.randbelow(PRIME) for _ in range(least - 1)]
    found = []
    for point in range(1, holders + 1):
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * point % PRIME
        found.append((value + int.from_bytes(seed, "big")) % PRIME)
    return [share.to_bytes(SHARE, "big") for share in found]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The seed of shares by place, from 0; exactly as many as are needed: Lagrange's interpolation at 0."""
    points = {place + 1: int.from_bytes(share, "big") for place, share in shares.items()}
    found = 0
    for point, value in points.items():
        above = below = 1
        for other in points:
            if other != point:
                above, below = above * other % PRIME, below * (other - point) % PRIME
        found += value * above * pow(below, -1, PRIME)
    return (found % PRIME % (1 << 8 * SEED)).to_bytes(SEED, "big")  # shares that somebody made up may give more


def commitment(share: bytes) -> bytes:
    """Says nothing of a share, and fits no other: `SEED` bytes of its SHA-256."""
    return hashlib.sha256(b"fed-rac-lora/share/v1" + share).digest()[:SEED]


def seal(own: X25519PrivateKey, other: bytes, ways: Sequence[int], text: bytes) -> bytes:
    """A box that only ``other`` opens; ``ways`` are round, sender and receiver."""
    return ChaCha20Poly1305(_box_key(own, other, ways)).encrypt(bytes(12), text, None)


def unseal(own: X25519PrivateKey, other: bytes, ways: Sequence[int], box: bytes) -> bytes | None:
    """What is in a box; None if it was not sealed so."""
    try:
        return ChaCha20Poly1305(_box_key(own, other, ways)).decrypt(bytes(12), box, None)
    except InvalidTag:
        return None


def _box_key(own: X25519PrivateKey, other: bytes, ways: Sequence[int]) -> bytes:
    """Of one box: keys are new in every round, and each way between two clients has its own."""
    return agreed(own, other, "box " + " ".join(map(str, ways)))
