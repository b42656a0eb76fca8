"""What the functions of a method return: an error says which returned what, and what is due."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedrac.algorithm.method import Method, RoundMethod


def of_round(method: Method, round_: int) -> RoundMethod:
    """What `Method.at` says of a round.

    Raises:
        ValueError: it says what the method cannot do, or another thing than in the first round of its kind.
    """
    found = method.at(round_)
    if not isinstance(found, RoundMethod):
        raise _wrong(method, f"at({round_})", found, "a RoundMethod: replace(super().at(round_), ...)")
    trains = ("full",) if method.train == "full" else ("factor", "both")
    sides = ("both",) if method.side == "both" else ("left", "right")
    for field, value, known in (("train", found.train, trains), ("side", found.side, sides)):
        if value not in known:
            raise _wrong(method, f"at({round_})", f"{field}={value!r}", f"{' or '.join(known)}")
    first = (round_ - 1) % method.period + 1
    if (same := method.at(first)).side != found.side or same.train != found.train:
        raise _wrong(
            method,
            f"at({round_})",
            f"train={found.train}, side={found.side}",
            f"what at({first}) returned, as its period is {method.period}; set period to how many rounds differ",
        )
    return found


def of_rank(method: Method, client: int, seed: int) -> int | None:
    """What `Method.client_rank` says of a client; raises as `of_round`."""
    found = method.client_rank(client, seed)
    if found is not None and (type(found) is not int or found < 1):
        raise _wrong(method, f"client_rank({client}, {seed})", str(found), "a whole number of at least 1, or None")
    return found


def of_ranks_after(method: Method, ranks: Sequence[int], found: Any) -> list[int]:
    """What `Method.ranks_after` makes of ``ranks``; raises as `of_round`."""
    good = isinstance(found, Sequence) and len(found) == len(ranks)
    if not good or any(type(new) is not int or not 1 <= new <= old for new, old in zip(found, ranks, strict=True)):
        raise _wrong(
            method, "ranks_after", str(found), f"a whole number from 1 to what it was for each of {list(ranks)}"
        )
    return list(found)


def of_local_gradient(method: Method, name: str, found: Any, factors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What `Method.local_gradient` says of the parameter ``name``; raises as `of_round`, but for what is not finite."""
    if not isinstance(found, Mapping) or not found.keys() <= factors.keys():
        said = found if not isinstance(found, Mapping) else f"{sorted(map(str, found))} for {name}"
        raise _wrong(method, "local_gradient", said, f"a dict of some of {sorted(factors)}")
    for letter, value in found.items():
        due = tuple(factors[letter].shape)
        if not isinstance(value, Tensor) or tuple(value.shape) != due:
            shown = value if not isinstance(value, Tensor) else f"{tuple(value.shape)} for {letter} of {name}"
            raise _wrong(method, "local_gradient", shown, str(due))
    return found


def of_mean(method: Method, name: str, found: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """What `Method.mean` made of the parameter ``name``, by letter; ``shapes`` are due. Raises as `of_round`."""
    _check_names(method, "mean", name, found, shapes)
    for letter, shape in shapes.items():
        _check(method, "mean", f"{letter} of {name}", found[letter], shape)
    return dict(found)


def of_step(method: Method, key: str, found: Any, update: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What `Method.step` made of ``update``; raises as `of_round`."""
    if not method.has_own("step"):
        return found  # type: ignore[no-any-return]
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)):
        raise _wrong(method, "step", found, "a tensor and a dict of those that are carried on")
    if strange := [name for name in found[1] if not str(name).startswith(f"{key}/")]:
        raise _wrong(method, "step", f"{strange[0]!r} to carry on", f"names that begin with {key}/")
    for name, value in ((key, found[0]), *found[1].items()):
        _check(method, "step", name, value, tuple(update.shape), update.dtype)
    return found[0], found[1]


def _check_names(method: Method, function: str, name: str, found: Any, due: Mapping[str, Any]) -> None:
    names = sorted(map(str, found)) if isinstance(found, Mapping) else None
    if names != sorted(due):
        raise _wrong(method, function, found if names is None else f"{names} for {name}", f"a dict of {sorted(due)}")


def _check(
    method: Method, function: str, name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    due = f"{dtype or 'floating-point'} {shape}"
    if not isinstance(value, Tensor):
        raise _wrong(method, function, value, f"a tensor for {name}: {due}")
    fits = value.is_floating_point() if dtype is None else value.dtype == dtype
    if not fits or tuple(value.shape) != shape:
        raise _wrong(method, function, f"{value.dtype} {tuple(value.shape)} for {name}", due)
    if not bool(torch.isfinite(value).all()):
        raise _wrong(method, function, f"numbers that are not finite for {name}", "finite ones")


def _wrong(method: Method, function: str, found: Any, due: str) -> ValueError:
    said = found if isinstance(found, str) else f"a {type(found).__name__}"
    kind = type(method)
    return ValueError(f"{kind.__module__}.{kind.__qualname__}.{function} returned {said}, expected {due}")
