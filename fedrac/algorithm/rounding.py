"""Numbers in a few bits, rounded at random so that nothing is lost in the mean.

With 8, 4 or 2 bits a row becomes whole steps between ``-s`` and ``s``, its largest entry (fp16, rounded up): each entry
goes to one of its two neighbours, with the probabilities that make it right in the mean. With 1 bit a tensor is turned
by a random rotation and keeps its signs and one scale, ``|x|^2 / |R x|_1``: EDEN (arXiv 2108.08842), which is unbiased
for uniform rotations, and within a few per cent for the two random Hadamard passes that stand in for them here.

All draws come from streams named by what is coded, so that coding is the same on every machine, and decoding needs no
more than the name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from fedrac.algorithm.streams import Stream, uniform

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Shapes = Mapping[str, tuple[int, ...]]

BITS = (1, 2, 4, 8)
_LEAST = 32  # entries that are rotated together; fewer are too few for a rotation to mix


@dataclass(frozen=True)
class BitsSpec:
    """In how many bits numbers cross the network; None: whole, in the dtype that they have.

    Attributes:
        upload: of the factors that clients send.
        download: of the means that the server sends.

    Raises:
        ValueError: there is no such rounding.
    """

    upload: int | None = None
    download: int | None = None

    def __post_init__(self) -> None:
        for name, bits in (("upload", self.upload), ("download", self.download)):
            if bits is not None and (isinstance(bits, bool) or bits not in BITS):
                raise ValueError(f"{name}.bits={bits!r} is unknown: choose 1, 2, 4 or 8, or null for whole numbers")


@dataclass(frozen=True)
class Rounding:
    """Tensors by name in ``bits`` bits a number.

    Attributes:
        bits: 1, 2, 4 or 8.
        seed: of the streams.
        parts: what names them further: a purpose, a round, a client.
    """

    bits: int
    seed: int
    parts: tuple[int | str, ...]

    def size(self, shapes: Shapes) -> int:
        """Bytes of tensors of these shapes: their scales and packed bits."""
        return sum(2 * self._scales(shape) + -(-prod(shape) * self.bits // 8) for shape in shapes.values())

    def encode(self, tensors: Mapping[str, Floats]) -> Bytes:
        """Tensors one after another in order of name, (`size`,) uint8."""
        parts = []
        for name in sorted(tensors):
            scales, codes = self._coded(name, np.asarray(tensors[name], np.float64))
            parts += [scales.astype("<f2").view(np.uint8), _packed(codes, self.bits)]
        return np.concatenate(parts)

    @np.errstate(invalid="ignore")  # an infinite scale, of what was not finite
    def decode(self, coded: Bytes, shapes: Shapes) -> dict[str, Floats]:
        """What `encode` made of tensors of these shapes: close to them, and equal to them in the mean."""
        found, at = {}, 0
        for name in sorted(shapes):
            scales, numbers = 2 * self._scales(shapes[name]), prod(shapes[name])
            end = at + scales + -(-numbers * self.bits // 8)
            scale = coded[at : at + scales].copy().view("<f2").astype(np.float64)
            codes = _unpacked(coded[at + scales : end], self.bits, numbers)
            found[name], at = self._decoded(name, scale, codes, shapes[name]), end
        return found

    def _stream(self, purpose: str, name: str) -> Stream:
        return Stream(self.seed, purpose, *self.parts, name)

    def _scales(self, shape: tuple[int, ...]) -> int:
        return sum(1 for _ in _blocks(prod(shape))) if self.bits == 1 else len(_rows(np.empty(shape)))

    def _coded(self, name: str, x: Floats) -> tuple[Floats, Bytes]:
        draws = self._stream("rounding", name)
        if self.bits > 1:
            rows = _rows(x)
            most = _up(np.abs(rows).max(1))
            return most, _steps(rows, most, draws, self.bits).ravel()
        scales: list[float] = []
        signs: list[Bytes] = []
        flat = x.ravel()
        turns = self._stream("rotation", name)
        for begin, end in _blocks(len(flat)):
            block = flat[begin:end]
            if len(block) < _LEAST or not np.isfinite(block).all():
                scales.append(_up(np.abs(block).max(keepdims=True))[0])
                signs.append(_steps(block[None], np.array(scales[-1:]), draws, 1)[0])
                continue
            turned = _turn(block, turns)
            whole = np.abs(turned).sum()
            scales.append(_half(block @ block / whole if whole else 0.0, draws))
            signs.append((turned >= 0).astype(np.uint8))
        return np.array(scales), np.concatenate(signs)

    def _decoded(self, name: str, scales: Floats, codes: Bytes, shape: tuple[int, ...]) -> Floats:
        if self.bits > 1:
            like = _rows(np.empty(shape))
            steps = codes.reshape(like.shape) * (2.0 / (2**self.bits - 1)) - 1.0
            return _of_rows(steps * scales[:, None], shape)
        turns, flat = self._stream("rotation", name), np.empty(len(codes))
        for (begin, end), scale in zip(_blocks(len(codes)), scales, strict=True):
            signs = 2.0 * codes[begin:end].astype(np.float64) - 1.0
            flat[begin:end] = scale * (_turn(signs, turns, back=True) if end - begin >= _LEAST else signs)
        return flat.reshape(shape)


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A kernel as a matrix; what has fewer axes as it is."""
    return (shape[0], prod(shape[1:])) if len(shape) > 3 else shape


def _rows(x: Floats) -> Floats:
    """Rows with a scale each, (rows, length): along the longer axis of a matrix."""
    x = x.reshape(_matrix(x.shape))
    if x.ndim < 2:
        return x.reshape(1, -1)
    x = x.swapaxes(-1, -2) if x.shape[-2] > x.shape[-1] else x
    return x.reshape(-1, x.shape[-1])


def _of_rows(rows: Floats, shape: tuple[int, ...]) -> Floats:
    """The inverse of `_rows`."""
    matrix = _matrix(shape)
    if len(matrix) > 1 and matrix[-2] > matrix[-1]:
        return rows.reshape(*matrix[:-2], matrix[-1], matrix[-2]).swapaxes(-1, -2).reshape(shape)
    return rows.reshape(shape)


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """Powers of two from the largest on, and what is left of fewer than `_LEAST`."""
    begin = 0
    while begin < count:
        left = count - begin
        end = begin + (1 << left.bit_length() - 1 if left >= _LEAST else left)
        yield begin, end
        begin = end


def _steps(rows: Floats, scales: Floats, draws: Stream, bits: int) -> Bytes:
    """Each entry as the number of its step, rounded up with the probability of what is left."""
    most = 2**bits - 1
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        place = np.nan_to_num((rows / scales[:, None] + 1.0) * (most / 2.0), nan=0.0)
    draw = uniform(draws.words(rows.size)).reshape(rows.shape)
    found: Bytes = np.clip(np.floor(place + draw), 0, most).astype(np.uint8)
    return found


def _up(x: Floats) -> Floats:
    """The least number of fp16 that is not smaller; infinite beyond its range."""
    with np.errstate(over="ignore"):
        near = x.astype(np.float16)
        return np.where(near < x, np.nextafter(near, np.float16(np.inf)), near).astype(np.float64)


def _half(x: float, draws: Stream) -> float:
    """One of the two neighbours in fp16, right in the mean."""
    high = float(_up(np.array([x]))[0])
    low = max(float(np.nextafter(np.float16(high), np.float16(-np.inf))), 0.0)
    if high == x or not np.isfinite(high):
        return high
    return high if uniform(draws.words(1))[0] < (x - low) / (high - low) else low


def _turn(x: Floats, turns: Stream, back: bool = False) -> Floats:
    """A random rotation of ``x`` (2^k,), or back: twice random signs and a Hadamard transform."""
    signs = 1.0 - 2.0 * (turns.words(2 * len(x)) >> np.uint64(63)).astype(np.float64).reshape(2, -1)
    for sign in signs[::-1] if back else signs:
        x = _hadamard(x) * sign if back else _hadamard(x * sign)
    return x


def _hadamard(x: Floats) -> Floats:
    """``H x`` with the symmetric orthonormal H, by the fast transform."""
    width = 1
    x = x / sqrt(len(x))
    while width < len(x):
        pairs = x.reshape(-1, 2, width)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).ravel()
        width *= 2
    return x


def _packed(codes: Bytes, bits: int) -> Bytes:
    if bits == 8:
        return codes
    return np.packbits((codes[:, None] >> np.arange(bits, dtype=np.uint8)) & 1, bitorder="little")


def _unpacked(coded: Bytes, bits: int, count: int) -> Bytes:
    if bits == 8:
        return coded
    each = np.unpackbits(coded, count=count * bits, bitorder="little").reshape(count, bits)
    found: Bytes = (each << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)
    return found
