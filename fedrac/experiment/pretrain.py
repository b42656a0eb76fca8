"""The model that a run starts from: random, or pre-trained in one place and kept in the cache.

Pre-training is Algorithm 1 with full rank: a federation of one client that trains every parameter for one round. It
computes in float64 and is kept in float32: what threads, or the processor's instructions, do to the last digits is
gone, and the cache holds the same bits whoever has filled it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from fedrac import data, models
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.experiment.settings import Experiment
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.strategy import FedRacLora
from fedrac.loading import cache
from fedrac.protocol.messages import to_record
from fedrac.protocol.state_digest import in_master_dtype
from fedrac.training import threads, work
from fedrac.training.optimizer import LocalSpec


def initial_weights(experiment: Experiment, built: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The state dict before round 1, in the master dtype (float64 if the run computes in it, else float32).

    Args:
        built: that of the model as the configuration builds it, where it is there already.

    Raises:
        ValueError: the data cannot be loaded in the form that ``pretrain.data`` asks for.
    """
    spec = experiment.pretrain
    if not spec.enabled:
        if built is None:
            built = models.build(experiment.model, experiment.seed).state_dict()
        return in_master_dtype(built, experiment.runtime.dtype)
    workload: dict[str, Any] = {
        "data": {**experiment.data, "validation": None, **(spec.data or {})},
        "partition": {"scheme": "iid", "clients": 1},
        "model": dict(experiment.model),
        "seed": experiment.seed if spec.seed is None else spec.seed,
        "dtype": "float64",
        "device": "cpu",
    }
    try:
        known = data.load(workload["data"])
    except ValueError as error:
        raise ValueError(
            f"pre-training: {error}. Set pretrain=none, or pretrain.data to what these data take"
        ) from error
    local = LocalSpec("adamw", spec.lr, spec.epochs, spec.batch_size)
    model = models.build(workload["model"], workload["seed"])
    count = threads.capped(spec.batch_size * work.of_a_row(model, known.train))

    def build() -> dict[str, Any]:
        with threads.using(count):
            trained = _train(model, workload, local)
        return {name: tensor.numpy() for name, tensor in in_master_dtype(trained, "float32").items()}

    asked = {"workload": workload, "local": asdict(local), "torch": torch.__version__}
    arrays = cache.arrays(cache.key("pretrain", asked), build)
    return in_master_dtype({name: torch.tensor(a) for name, a in arrays.items()}, experiment.runtime.dtype)


def _train(model: nn.Module, workload: dict[str, Any], local: LocalSpec) -> dict[str, Tensor]:
    strategy = FedRacLora(
        model,
        workload,
        method=Method("FPFT", train="full"),
        adapt=AdaptSpec({"*": "full"}, ("*",)),
        local=local,
        server=ServerSpec(cohort_size=1),
    )
    start: ArrayRecord = to_record(in_master_dtype(model.state_dict(), workload["dtype"]))
    strategy.start(InProcessGrid(client_app.app), start, num_rounds=1)
    return strategy.effective_weights()
