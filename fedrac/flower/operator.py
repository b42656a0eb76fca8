"""What the operator of a server allows the settings that ``flwr run`` brings."""

import os
from dataclasses import replace
from pathlib import Path

from flwr.serverapp import Grid
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from fedrac.loading.limits import Limits
from fedrac.protocol import policy

VARIABLE = "FEDRAC_POLICY"  # of the ServerApp's environment, which no run can set


def server_limits(grid: Grid) -> Limits | None:
    """What settings may name in a ServerApp; None: everything.

    In Flower's simulation who starts a run is who owns the machine. Elsewhere the file that ``$FEDRAC_POLICY`` names
    says it, in the words of a node's policy (``loaders``, ``models``, ``functions``, ``folders``); without it fedrac's
    own are allowed. Without ``folders`` in it files may lie anywhere: a server's disk is its operator's to mount.

    Raises:
        ValueError: the file is no policy.
        OSError: it cannot be read.
    """
    named = os.environ.get(VARIABLE)
    if named is None and isinstance(grid, InMemoryGrid):
        return None
    found = policy.read(Path(named).expanduser()) if named else policy.STRICT
    limits = found.policy.limits()
    return limits if "folders" in found.places else replace(limits, folders=None)
