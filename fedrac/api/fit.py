"""Federated training of a model that a Python program has, on data that it has."""

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fedrac.algorithm.method import Method
from fedrac.api import live
from fedrac.api.client_data import gather
from fedrac.api.runs import Run, load, merged
from fedrac.data import Data
from fedrac.data.tasks import Loss, Task
from fedrac.data.validation import hold_out
from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run, run_unwritten
from fedrac.experiment.settings import ConfigError
from fedrac.flower import node
from fedrac.monitoring.bar import Bar
from fedrac.protocol import method_settings
from fedrac.training.model_check import check_model

if TYPE_CHECKING:
    from fedrac.api.client_data import Examples

_ARGUMENTS = ("data", "model", "partition", "pretrain", "output_dir")  # of the configuration: fit has them otherwise


def fit(
    net: nn.Module,
    clients: "Sequence[Examples]",
    test: "Examples | None" = None,
    *,
    target: str | Sequence[str] | None = None,
    task: str | Task | None = None,
    loss: str | Loss | None = None,
    rank: int | None = None,
    rounds: int | None = None,
    cohort_size: int | None = None,
    method: str | Method | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    progress: bool = True,
) -> Run:
    """Trains ``net`` on the clients' examples by Fed-RAC-LoRA (Algorithm 2 of arXiv 2410.08305), or another method.

    The same as the command ``fedrac`` with that model and that data, in this process, to the last bit.

    Args:
        net: takes inputs (rows, ...) and returns (rows, outputs): a logit for each class, or the values of a
            regression. It is not changed. The training starts from its weights; which layers are trained is up to
            ``adapt.layers`` (by default all linear and convolutional ones and embeddings) and ``adapt.full``. What
            has ``requires_grad=False`` stays as it is.
        clients: the examples of each; client i of the results is ``clients[i]``. A pair (x, y) of tensors or arrays,
            a map-style data set of such pairs, or a DataFrame. Targets (N,) of integers are labels 0, 1, ... of a
            classification (cross-entropy), floating-point ones (N,) or (N, k) those of a regression (half the squared
            error); ``task`` says it otherwise. Inputs are kept as float32, integers as int64.
        test: examples for testing, of one of these forms. None: the clients of every round test on what they train
            on (``clients/...`` in place of ``test/...``), unless ``evaluate.validation`` holds a part of it out.
        target: the column of a DataFrame that is predicted, or several of a regression. None: the last one.
        task: what the targets mean, one of `fedrac.data.tasks.NAMES`, or a `Task` of your own. None: as they look.
        loss: in place of the task's own: a function of outputs and targets to the loss of each example, (rows,).
        rank: of a layer's update in a round (``rank``).
        rounds: how many (``rounds``).
        cohort_size: clients a round (``cohort.size``). None: as configured (10), or all if there are fewer.
        method: one of ``conf/method``: ``fed_rac_lora``, ``fedavg``, ``fedavg_lora``, ``asymm_lora``, ``flora``,
            ``fedex_lora``, ``fed_cola`` ...; or a `Method`, also of a class of your own.
        seed: of all randomness (``seed``). What is None here is as ``conf/config.yaml`` has it.
        overrides: other settings, ``KEY=VALUE`` as the command takes them; they come last. With ``resume=DIR`` an
            earlier fit, of the same model and data, goes on where it stopped.
        output_dir: a folder for everything that a run leaves. None: nothing is written anywhere.
        progress: show a progress bar.

    Returns:
        The run: its history, its summary, and a copy of ``net`` with the merged weights.

    Raises:
        ValueError: the data are wrong (the message names the client) or not for this model, or a setting is wrong
            (`ConfigError`).
        FileExistsError: ``output_dir`` holds another run.
        CohortFailure: a round failed (a RuntimeError). `Divergence`, where numbers were not finite any more, is one.
    """
    named = None if isinstance(method, Method) else method
    given = {"rank": rank, "rounds": rounds, "cohort.size": cohort_size, "method": named, "seed": seed}
    told = [*(f"{key}={value}" for key, value in given.items() if value is not None), *overrides]
    examples = gather(clients, test, target, task, loss)
    _check(net, examples)
    try:
        with live.held(net, examples) as token, closing(Bar(progress)) as bar:
            own = {"method": _plain(method, told)} if isinstance(method, Method) else {}
            settings = _settings(told, {**live.sections(token), **own}, len(clients), output_dir)
            _check_held_out(settings.evaluate.validation, examples, len(clients))
            return _run(settings, net, bar)
    finally:
        node.forget()  # its hosts hold model and data


def _plain(method: Method, told: Sequence[str]) -> dict[str, Any]:
    """A method as a configuration has it."""
    if given := [override for override in told if override.lstrip("+~").startswith(("method", "resume="))]:
        raise ConfigError(f"{given[0]}: fedrac.fit was given the method as an object, with all its values")
    return json.loads(json.dumps(method_settings.written(method), default=vars))  # type: ignore[no-any-return]


def _check(net: nn.Module, examples: Data) -> None:
    """As every node does, but in the caller's own words."""
    device, dtype = torch.device("cpu"), torch.float32
    model = copy.deepcopy(net).to(device, dtype)
    for part in (examples.train, examples.test):
        if len(part):
            check_model(model, part, examples.task, device, dtype)


def _check_held_out(fraction: float | None, examples: Data, clients: int) -> None:
    """Else the clients after one that has nothing left would move up."""
    if fraction is None:
        return
    left = hold_out(examples, fraction).train.groups
    if bare := sorted(set(range(clients)).difference([] if left is None else left.tolist())):
        raise ValueError(f"evaluate.validation={fraction} leaves clients[{bare[0]}] no examples: give fit a test part")


def _run(settings: DictConfig, net: nn.Module, bar: Bar) -> Run:
    if settings.output_dir is not None:
        folder = Path(settings.output_dir).absolute()
        run(settings, in_process(settings), folder, bar)
        return load(folder, net)
    found = run_unwritten(settings, in_process(settings), bar)
    config: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    return Run(config, found.summary, found.lines, None, lambda: merged(net, found.weights), lambda: found.tested)


def _settings(
    told: Sequence[str], sections: Mapping[str, Any], clients: int, output_dir: str | Path | None
) -> DictConfig:
    """The configuration: as the command composes it, with the live model and data in their places."""
    keys = [override.split("=")[0].lstrip("+~") for override in told]
    for override, key in zip(told, keys, strict=True):
        if key.split(".")[0] in _ARGUMENTS:
            raise ConfigError(f"{override}: fedrac.fit takes model, data, task, loss and output_dir as arguments")
    if "resume" in keys:
        settings = _resumed(told, output_dir)
    else:
        settings = compose.load(["pretrain=none", *told])  # net has the weights to start from
        settings.output_dir = None if output_dir is None else str(output_dir)
        settings.partition = {"scheme": "natural", "clients": None}
        if not {"cohort", "cohort.size"} & set(keys):
            settings.cohort.size = min(settings.cohort.size, clients)
    settings.update(sections)
    return settings


def _resumed(told: Sequence[str], output_dir: str | Path | None) -> DictConfig:
    settings = compose.load(told)
    if not live.is_live(settings.model):
        raise ConfigError(f"resume={settings.resume}: fedrac.fit did not make that run; go on with it by fedrac.run")
    if output_dir is not None:
        raise ConfigError(f"output_dir={output_dir}: a resumed run goes on in its own folder, {settings.resume}")
    return settings
