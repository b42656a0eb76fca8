"""A method as settings and messages have it: its values, and the import path of its class if it is not `Method`."""

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from fedrac.algorithm.method import Method
from fedrac.loading import target

KEY = "method._target_"


def kind_of(settings: Mapping[str, Any]) -> type[Method]:
    """The class that settings of a method name.

    Raises:
        Refused: they may not name it here; nothing has been imported.
        ValueError: it is no method.
    """
    path = settings.get("_target_")
    if path is None or path == path_of(Method):
        return Method
    if path == "???":
        raise ValueError(f"{KEY} is not set: give the import path of a class of your own, e.g. my_methods.MyMethod")
    kind = target.find(str(path), KEY, "methods")
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise ValueError(f"{KEY}={path} must be a class that derives from fedrac.algorithm.method.Method")
    return kind


def read(settings: Mapping[str, Any]) -> Method:
    """The method of `written`; raises as `kind_of`, or ValueError if a value is wrong."""
    values = {key: value for key, value in settings.items() if key != "_target_"}
    return _adapter(kind_of(settings)).validate_python(values)  # type: ignore[arg-type]


@lru_cache
def _adapter(kind: type[Method]) -> TypeAdapter[Method]:
    return TypeAdapter(kind)


def written(method: Method) -> dict[str, Any]:
    """Its values by name, and the import path of its class."""
    values = {field.name: getattr(method, field.name) for field in fields(method)}
    return {"_target_": path_of(type(method)), **values}


def path_of(kind: type[Method]) -> str:
    """The import path of a class of methods; raises ValueError if it has none."""
    if "<locals>" in kind.__qualname__:
        raise ValueError(f"the method {kind.__qualname__} is defined inside a function: move it to the top of a module")
    return f"{kind.__module__}.{kind.__qualname__}"
