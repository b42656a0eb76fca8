"""The sub-commands of ``fedrac``: ``fedrac NAME ARGUMENTS`` calls ``main`` of the module of that name here.

A module is imported when its command is given, so that what it needs slows nothing else down. Everything that is not a
sub-command is Hydra's: ``KEY=VALUE`` and its options.
"""

import difflib
import importlib
from collections.abc import Sequence

# Name of a module here, and what the command does, as `fedrac --help` shows it.
COMMANDS = {
    "check": "what a run would learn of a node's own data, and whether they fit it",
    "predict": "what the model of a run says of texts, rows or images",
    "report": "figures and tables of all runs in a folder",
    "split": "divide a data set into a folder for every node",
    "export": "the model of a run for transformers, PEFT, or as safetensors",
    "status": "how far a run has come, also while it goes on",
    "theory": "step sizes, rate and floor that theory gives a convex problem (KEY=VALUE ...)",
}


def run(name: str, arguments: Sequence[str]) -> int:
    """Runs the command ``name``; returns its exit code.

    Raises:
        ValueError: there is no such command.
    """
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        known = f"did you mean fedrac {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise ValueError(f"there is no command {name!r}; {known} (a setting is KEY=VALUE)")
    return int(importlib.import_module(f"fedrac.cli.commands.{name}").main(list(arguments)))


def listing() -> str:
    """One line a command."""
    return "\n".join(f"  fedrac {name:<12} {purpose}" for name, purpose in COMMANDS.items())
