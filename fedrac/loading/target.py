"""From an import path in the configuration to what it names, in one step."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from fedrac.loading import limits
from fedrac.loading.told import told


def construct(spec: Mapping[str, Any], group: str, mine: bool = False) -> Any:
    """Call what ``spec["_target_"]`` names with the other entries of ``spec``, nested targets first.

    Args:
        spec: an import path under ``_target_`` and the keyword arguments.
        group: the part of the configuration that ``spec`` is, for the errors: ``"data"``, ``"model"``.
        mine: ``spec`` is the operator's own, whoever else's settings it belongs to; it may name everything.

    Raises:
        Refused: it names what settings may not name here; nothing has been imported.
        ValueError: no target, a target that cannot be imported, or arguments that it does not take. Any other
            error of the callable comes through as it is.
    """
    from hydra.errors import InstantiationException  # hydra takes 0.2 s to import
    from hydra.utils import instantiate

    target = spec.get("_target_")
    if not isinstance(target, str) or target == "???":
        raise told(
            ValueError(
                f"{group}._target_ is {target!r}: set it to the import path of a function, e.g. my_module.my_function"
            )
        )
    if not mine:
        limits.check_spec(spec, group)
    if missing := [key for key, value in spec.items() if isinstance(value, str) and value == "???"]:
        raise told(ValueError(f"{group}.{missing[0]} is missing: set {group}.{missing[0]}=..."))
    try:
        return instantiate(dict(spec), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, TypeError):
            given = ", ".join(key for key in spec if not key.startswith("_")) or "nothing"
            begin, takes = f"{group}._target_={target} was given {given}", f"it takes {_signature(target)}"
            raise told(ValueError(f"{begin}: {cause}; {takes}"), f"{begin}; {takes}") from cause
        if cause is None or isinstance(cause, ImportError):
            raise _unusable(f"{group}._target_={target}", cause or error) from error
        raise cause from None


def function(path: str, key: str) -> Callable[..., Any]:
    """The function at an import path, e.g. ``my_module.my_function``, not called.

    Args:
        path: a value of the configuration.
        key: where it stands there, for the errors: ``"partition.scheme"``.

    Raises:
        Refused: settings may not name it here; nothing has been imported.
        ValueError: there is none.
    """
    found = find(path, key)
    if not callable(found):
        raise told(ValueError(f"{key}={path} is a {type(found).__name__}: give the import path of a function"))
    return found  # type: ignore[no-any-return]


def find(path: str, key: str, kind: str = "functions") -> Any:
    """What an import path names, e.g. ``my_module.my_task``; raises as `function` does if it is nothing, or refused.

    Args:
        path, key: as `function` takes them.
        kind: of what it names, as `limits.check_name` takes it.
    """
    limits.check_name(path, key, kind)
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, ValueError, AttributeError) as error:
        raise _unusable(f"{key}={path}", error) from error


def _unusable(setting: str, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split())  # on one line
    mend = "check the spelling; a module of your own must be importable, e.g. PYTHONPATH=its/folder"
    return told(ValueError(f"{setting} cannot be used ({reason}): {mend}"), f"{setting} cannot be used: {mend}")


def parameters(spec: Mapping[str, Any], group: str, mine: bool = False) -> Mapping[str, inspect.Parameter]:
    """The parameters of the function or class that ``spec["_target_"]`` names, by name; arguments as for `construct`.

    Raises:
        Refused: as for `construct`.
    """
    if not mine:
        limits.check_spec(spec, group)
    return _parameters(spec["_target_"])


def _parameters(target: str) -> Mapping[str, inspect.Parameter]:
    from hydra.utils import get_object

    return inspect.signature(get_object(target)).parameters


def _signature(target: str) -> str:
    try:
        return f"({', '.join(map(str, _parameters(target).values()))})"
    except (TypeError, ValueError):  # written in C, or a nested target was at fault
        return "other arguments"
