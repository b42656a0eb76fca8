"""What a state of a run is, bit for bit: its tensors by name, their fingerprints, and one digest of all of them.

A digest names a state wherever it lies: two processes that computed it apart, or one that read it from a file, have
the same if the digests are equal.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedrac.algorithm.state import ServerState

_PREFIXES = {"weights": "weight/", "factors": "factor/", "basis": "basis/", "moments": "moment/"}


@dataclass(frozen=True)
class DigestedState:
    """A state and what identifies it. Its tensors are shared, so nobody may change them in place.

    Attributes:
        state: weights, carried factors, basis and moments.
        prints: SHA-256 of every tensor, by name in the snapshot.
        digest: SHA-256 (hex) over names and prints. The round is not part of it: equal contents are one state.
    """

    state: ServerState
    prints: Mapping[str, bytes]
    digest: str

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Weights (m, ...), carried factors, basis and moments under names that cannot meet, in the master dtype."""
        parts = {prefix: getattr(self.state, part) for part, prefix in _PREFIXES.items()}
        return {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}


def take(state: ServerState, before: DigestedState | None = None) -> DigestedState:
    """The snapshot of a state; tensors that are the very ones of ``before`` are not read again."""
    known = before.tensors if before else {}
    bare = DigestedState(state, {}, "").tensors
    prints = {
        name: before.prints[name] if before and known.get(name) is tensor else fingerprint(tensor)
        for name, tensor in bare.items()
    }
    return DigestedState(state, prints, _digest(prints))


def of_weights(weights: Mapping[str, Tensor], dtype: str) -> str:
    """The digest of the state that has these weights in the master dtype (`in_master_dtype`), and no factors."""
    return _digest(
        {_PREFIXES["weights"] + k: fingerprint(in_master_dtype({k: v}, dtype)[k]) for k, v in weights.items()}
    )


def _digest(prints: Mapping[str, bytes]) -> str:
    sha = hashlib.sha256()
    for name in sorted(prints):
        sha.update(name.encode() + b"\0" + prints[name])
    return sha.hexdigest()


def fingerprint(tensor: Tensor) -> bytes:
    """SHA-256 over dtype, shape and bytes (little-endian, row by row)."""
    array = tensor.detach().cpu().contiguous().numpy()
    sha = hashlib.sha256(f"{array.dtype.newbyteorder('<').str}{array.shape}".encode())
    sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view("u1").data)
    return sha.digest()


def state_of(round_: int, tensors: Mapping[str, Tensor]) -> ServerState:
    """The state after round ``round_`` (0: before the first) with these tensors: inverse of `DigestedState.tensors`."""
    parts: dict[str, Any] = {
        part: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        for part, prefix in _PREFIXES.items()
    }
    return ServerState(round_, **parts)


def in_master_dtype(weights: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """A state dict (m, ...) as the server keeps it: float64 if the run computes in ``dtype`` float64, else float32."""
    master = torch.float64 if dtype == "float64" else torch.float32
    return {k: v.to(master) if v.is_floating_point() else v for k, v in weights.items()}
