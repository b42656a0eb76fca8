"""From an import path in the configuration to what it names, in one step."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any


def construct(spec: Mapping[str, Any], group: str) -> Any:
    """Call what ``spec["_target_"]`` names with the other entries of ``spec``, nested targets first.

    Args:
        spec: an import path under ``_target_`` and the keyword arguments.
        group: the part of the configuration that ``spec`` is, for the errors: ``"data"``, ``"model"``.

    Raises:
        ValueError: no target, a target that cannot be imported, or arguments that it does not take. Any other
            error of the callable comes through as it is.
    """
    from hydra.errors import InstantiationException  # hydra takes 0.2 s to import
    from hydra.utils import instantiate

    target = spec.get("_target_")
    if not isinstance(target, str) or target == "???":
        raise ValueError(
            f"{group}._target_ is {target!r}: set it to the import path of a function, e.g. my_module.my_function"
        )
    if missing := [key for key, value in spec.items() if isinstance(value, str) and value == "???"]:
        raise ValueError(f"{group}.{missing[0]} is missing: set {group}.{missing[0]}=...")
    try:
        return instantiate(dict(spec), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, TypeError):
            given = ", ".join(key for key in spec if not key.startswith("_")) or "nothing"
            raise ValueError(
                f"{group}._target_={target} was given {given}: {cause}; it takes {_signature(target)}"
            ) from cause
        if cause is None or isinstance(cause, ImportError):
            raise _unusable(f"{group}._target_={target}", cause or error) from error
        raise cause from None


def function(path: str, key: str) -> Callable[..., Any]:
    """The function at an import path, e.g. ``my_module.my_function``, not called.

    Args:
        path: a value of the configuration.
        key: where it stands there, for the errors: ``"partition.scheme"``.

    Raises:
        ValueError: there is none.
    """
    found = find(path, key)
    if not callable(found):
        raise ValueError(f"{key}={path} is a {type(found).__name__}: give the import path of a function")
    return found  # type: ignore[no-any-return]


def find(path: str, key: str) -> Any:
    """What an import path names, e.g. ``my_module.my_task``; raises ValueError, as `function`, if it is nothing."""
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, ValueError, AttributeError) as error:
        raise _unusable(f"{key}={path}", error) from error


def _unusable(setting: str, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split())  # on one line
    return ValueError(
        f"{setting} cannot be used ({reason}): check the spelling; a module of your own must be importable, e.g. "
        "PYTHONPATH=its/folder"
    )


def parameters(target: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of the function or class at an import path, by name."""
    from hydra.utils import get_object

    return inspect.signature(get_object(target)).parameters


def _signature(target: str) -> str:
    try:
        return f"({', '.join(map(str, parameters(target).values()))})"
    except (TypeError, ValueError):  # written in C, or a nested target was at fault
        return "other arguments"
