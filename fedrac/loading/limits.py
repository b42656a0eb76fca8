"""What settings may name that come from another machine: functions by their import paths, and files.

Who starts a run on a machine of his own may name what he likes. On a node, and where ``flwr run`` hands settings to a
server, they come from somebody else: there they name fedrac's own loaders and models, and what the operator of the
process allows. Both are lists of whole import paths. So nothing is imported in order to find out whether it may be, and
nobody gets from an allowed module to what that module has imported.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedrac.loading.told import told

_KINDS = {
    "data": "loaders",
    "model": "models",
    "method": "methods",
}  # what is not listed are functions: metrics, partition schemes, ...
_PATHS = ("path", "test_path", "hub_name", "name", "tokenizer", "checkpoint")  # a name on a hub may be a file here


class Refused(ValueError):
    """What the operator of this process does not allow.

    Attributes:
        key: the line of his policy that says so.
    """

    def __init__(self, what: str, key: str) -> None:
        super().__init__(f"{what}, by {key} of the policy here")
        self.key = key
        told(self)


@dataclass(frozen=True)
class Limits:
    """What settings from elsewhere may name.

    Attributes:
        names: import paths, under ``loaders``, ``models``, ``methods`` and ``functions``.
        folders: below which files may be opened, resolved; None: anywhere.
    """

    names: Mapping[str, frozenset[str]] = field(default_factory=lambda: {})
    folders: tuple[Path, ...] | None = ()


_current: ContextVar[Limits | None] = ContextVar("limits", default=None)


def current() -> Limits | None:
    """What holds here; None: settings are the operator's own."""
    return _current.get()


@contextmanager
def within(limits: Limits | None) -> Iterator[None]:
    """Within the block these limits hold. None changes nothing: it never lifts those that hold already."""
    token = _current.set(_current.get() if limits is None else limits)
    try:
        yield
    finally:
        _current.reset(token)


def config_dir() -> Path:
    """Where the YAML files are: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


@lru_cache
def own(group: str) -> frozenset[str]:
    """The import paths of fedrac's own: those that the options of a group, ``data``, ``model`` or ``method``, name."""
    import yaml

    files = sorted((config_dir() / group).glob("*.yaml"))
    return frozenset(path for file in files for path in _targets(yaml.safe_load(file.read_text())) if path != "???")


def _targets(node: Any) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "_target_":
            yield value
        else:
            yield from _targets(value)


def check_name(path: str, key: str, kind: str = "functions") -> None:
    """Raises `Refused` if settings may not name the function at an import path; nothing is imported.

    Args:
        path: the import path.
        key: where it stands in the settings, for the error.
        kind: ``loaders``, ``models``, ``methods`` or ``functions``.
    """
    if (limits := current()) is not None and path not in limits.names.get(kind, frozenset()):
        raise Refused(f"{key}={path!r} may not be named", kind)


def check_spec(spec: Mapping[str, Any], group: str) -> None:
    """Raises `Refused` if settings may not name what ``spec`` names, at any depth; nothing is imported.

    Args:
        spec: an import path under ``_target_`` and the arguments.
        group: the part of the configuration that it is: ``"data"``, ``"model"``.
    """
    if current() is not None:
        check_name(str(spec.get("_target_")), f"{group}._target_", _KINDS.get(group, "functions"))
        for key, value in spec.items():
            if key != "_target_":
                _check(value, key, f"{group}.{key}")


def _check(value: Any, key: str, place: str) -> None:
    if key.startswith("_") or (isinstance(value, str) and "${" in value):
        raise Refused(f"{place}: only plain values are taken", "functions")  # Hydra's own keys and interpolations
    if isinstance(value, str):
        _check_file(value, key, place)
    elif isinstance(value, Mapping):
        for inner, item in value.items():
            if inner == "_target_":
                check_name(str(item), f"{place}._target_")
            else:
                _check(item, str(inner), f"{place}.{inner}")
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item, key, place)


def _check_file(value: str, key: str, place: str) -> None:
    """A string names a file if it is absolute, or where it could be one and is there."""
    limits = current()
    if limits is None or limits.folders is None or not (key in _PATHS or "/" in value or value.startswith("~")):
        return
    try:
        path = Path(value).expanduser()
        inside = any(path.resolve().is_relative_to(folder) for folder in limits.folders)
        outside = not inside and (path.is_absolute() or path.exists())
    except (OSError, ValueError, RuntimeError):  # no file's name: too long, or with a zero byte, or of no user's home
        outside = value.startswith(("/", "~"))
    if outside:
        raise Refused(f"{place}={value!r} lies in no folder that may be read", "folders")
