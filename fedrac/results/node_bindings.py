"""``nodes.json``: which node is which client of a run whose nodes have data of their own, also when it goes on.

A node that gets another key is let in again by taking its line out, while the run stands still.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from fedrac.results.record import to_json, write_atomically

FILE = "nodes.json"


def read(folder: Path) -> dict[int, str]:
    """Identity of the node (`fedrac.protocol.node_bindings.identity_of`) by client; empty where nothing is kept.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / FILE
    try:
        return {int(client): str(node) for client, node in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): mend it, or remove it if all nodes are known to be who they were"
        ) from error


def write(folder: Path, bound: Mapping[int, str]) -> None:
    """The same, whole or not at all."""
    write_atomically(folder / FILE, to_json({str(client): node for client, node in sorted(bound.items())}, 2) + "\n")
