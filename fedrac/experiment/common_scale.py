"""Before a run: nodes with tables of their own agree on a common scale of the columns, by sums under masks."""

import logging
from functools import partial

from flwr.app import Message
from flwr.serverapp import Grid
from omegaconf import DictConfig, open_dict

from fedrac.data import standard
from fedrac.experiment.settings import ConfigError, Experiment, parse
from fedrac.partition.partition import NODES
from fedrac.protocol import code_digest, column_sums
from fedrac.protocol.connected_clients import ConnectedClients
from fedrac.protocol.resending import deliver
from fedrac.protocol.secure_server import SecureRound

log = logging.getLogger(__name__)

_LEAST = 3  # of two nodes, each could take its own sums from those of both


def agree(settings: DictConfig, grid: Grid, timeout: float = 600.0) -> None:
    """Puts what the nodes have agreed on in the place of ``data.standardize=agreed``, so that it is part of the run.

    Args:
        settings: changed where they ask for it.
        grid: reaches the nodes.
        timeout: seconds to wait for nodes to connect.

    Raises:
        ConfigError: the data are not the nodes' own.
        RuntimeError: a node cannot serve; or there are fewer than three, or too few are left.
    """
    if settings.data.get("standardize") != standard.AGREED:
        return
    experiment = parse(settings)
    if experiment.partition.get("scheme") != NODES or not experiment.data.get("features"):
        raise ConfigError(
            "data.standardize=agreed is for nodes with tables of their own (partition=nodes data.features=[...]): "
            "common data are scaled by data.standardize=true"
        )
    scale = _found(experiment, grid, timeout)
    with open_dict(settings):
        settings.data.standardize = scale.spec
    log.info("the nodes have agreed on mean and deviation of %d columns", len(scale.mean))


def _found(experiment: Experiment, grid: Grid, timeout: float) -> standard.Scale:
    workload = {"code": code_digest.digest(), **experiment.workload()}
    connected = ConnectedClients(workload, timeout)
    connected.refresh(grid, experiment.cohort.size)
    if len(connected.clients) < _LEAST:
        raise RuntimeError(
            f"data.standardize=agreed needs at least {_LEAST} nodes, {len(connected.clients)} are here: of two, each "
            "would know the other's sums"
        )
    ask = partial(deliver, grid, timeout=experiment.cohort.timeout)
    round_ = SecureRound(experiment.secure, 0, connected.by_host(connected.clients.tolist()))
    round_.agree(workload, experiment.seed, ask)
    messages = [
        Message(column_sums.question(workload, round_.content(clients)), node, column_sums.KIND, group_id="0")
        for node, clients in round_.hosts.items()
    ]
    words, refused = column_sums.answers(ask(messages), round_.hosts, len(experiment.data["features"]))
    if refused or round_.refused:
        first = [*(str(refusal) for _, refusal in round_.refused), *refused][0]
        raise RuntimeError(f"data.standardize=agreed needs all nodes, and not all have given their sums: {first}")
    return standard.scale_of(round_.unmask(words, ask))
