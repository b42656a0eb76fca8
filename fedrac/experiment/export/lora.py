"""The accumulated update of a run as a LoRA adapter of PEFT.

The update ``W_T - W_0`` of an adapted layer has a rank of at most rounds x r. Its best approximation of rank k keeps
its k largest singular values (Eckart-Young); the share that is kept is measured in squared Frobenius norm.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedrac.algorithm.blocks import Block, plan_blocks
from fedrac.experiment.export import pretrained
from fedrac.experiment.finished_run import FinishedRun
from fedrac.models.hf import HuggingFace

# PEFT's names of the kinds of task.
_TASKS = {"sequence_classification": "SEQ_CLS", "causal_lm": "CAUSAL_LM"}


@dataclass(frozen=True)
class Pair:
    """``B A`` of rank k, (m, k) and (k, n) float32.

    Attributes:
        kept, total: squared Frobenius norms of ``B A`` and of the update.
    """

    A: Tensor
    B: Tensor
    kept: float
    total: float


def best_pair(update: Tensor, rank: int) -> Pair:
    """The best approximation of an update (m, n) by a product of rank ``rank``, or less where the update has less."""
    u, values, vt = torch.linalg.svd(update.double(), full_matrices=False)
    tiny = values[0] * max(update.shape) * torch.finfo(torch.float32).eps  # it was merged in float32
    k = min(rank, max(int((values > tiny).sum()), 1))
    root, squares = values[:k].sqrt(), values.square()
    b, a = u[:, :k] * root, root[:, None] * vt[:k]
    return Pair(a.float(), b.float(), float(squares[:k].sum()), float(squares.sum()))


@torch.no_grad()
def save(run: FinishedRun, folder: Path, rank: int | None) -> dict[str, Pair]:
    """Writes adapter_config.json and adapter_model.safetensors, which ``PeftModel.from_pretrained`` reads.

    Args:
        run: of a model of transformers.
        folder: where to.
        rank: of every layer's adapter, lowered to the rank of its update; None: that rank.

    Returns:
        The adapters by layer.

    Raises:
        ValueError: the run's model is not one of transformers, or an adapter cannot express what was trained.
    """
    initial = pretrained.of_transformers(run.initial_model()).float()
    pairs, whole = _split(run, initial, rank)
    model = _adapter(run, initial, pairs, whole)
    pretrained.save_tokenizer(run, folder)
    model.save_pretrained(folder, save_embedding_layers=False)
    return pairs


def _split(run: FinishedRun, initial: HuggingFace, rank: int | None) -> tuple[dict[str, Pair], list[str]]:
    """Layers that get a low-rank adapter, and modules that are saved whole; by path in the wrapper."""
    by_layer: dict[str, list[Block]] = {}
    for block in plan_blocks(initial, run.experiment.adapt, run.experiment.method):
        if len(block.owners) > 1:
            raise ValueError(
                f"{block.name} is tied to {block.names[1]}, and an adapter of PEFT cannot change both: use --to hf"
            )
        by_layer.setdefault(block.owners[0][0], []).append(block)
    full, heads = run.experiment.method.train == "full", _whole_heads(run, initial)
    pairs, whole = {}, {_in_whole(heads, name.rpartition(".")[0]) for name in initial.fresh}
    for path, blocks in by_layer.items():
        saved_with = _in_whole(heads, path)
        if saved_with not in {*heads, *whole} and _is_low_rank(initial, path, blocks, full):
            name = blocks[0].name
            update = run.weights[name].double() - initial.get_parameter(name).double()
            pairs[path] = best_pair(update.flatten(1), rank or _most(run, blocks[0]))
        else:
            whole.add(saved_with)
    return pairs, sorted(whole)


def _whole_heads(run: FinishedRun, model: HuggingFace) -> tuple[str, ...]:
    """PEFT saves the head of a classification as one module, whatever is trained of it."""
    return () if run.experiment.model.get("head") == "causal_lm" else model.heads


def _in_whole(heads: Iterable[str], path: str) -> str:
    """The module with which a layer is saved."""
    return next((head for head in heads if path.startswith(f"{head}.")), path)


def _most(run: FinishedRun, block: Block) -> int:
    """The largest rank that the update can have; what is beyond it is rounding."""
    method = run.experiment.method
    momentum = method.optimizer is not None and method.optimizer.name == "momentum" and not method.has_own("step")
    by_entry = method.merge and not (method.steps_plainly or momentum)
    own = block.rank if method.average == "factors" and not by_entry else None
    return min(block.m, block.n) if own is None else min(block.m, block.n, run.round * own)


def _is_low_rank(model: HuggingFace, path: str, blocks: list[Block], full: bool) -> bool:
    """One weight with a low-rank update; or, where the method trains whole matrices, one that can have such."""
    layer = model.get_submodule(path)
    if len(blocks) > 1 or not isinstance(layer, nn.Linear | nn.Embedding | nn.Conv2d):
        return False
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:  # PEFT's pair has another shape there
        return False
    return blocks[0].name.endswith(".weight") and (blocks[0].rank is not None or full)


def _adapter(run: FinishedRun, initial: HuggingFace, pairs: Mapping[str, Pair], whole: list[str]) -> Any:
    """A ``PeftModel`` that predicts as the run's model does."""
    from peft import LoraConfig, get_peft_model

    conv1d = initial.conv1d
    ranks = {_plain(path): len(pair.A) for path, pair in pairs.items()}
    most = max(ranks.values(), default=1)
    fewer = {path: rank for path, rank in ranks.items() if rank < most}
    config = LoraConfig(
        r=most,
        lora_alpha=most,  # alpha = rank: the update is B A
        target_modules=list(ranks),
        rank_pattern=fewer,
        alpha_pattern=fewer,
        modules_to_save=[_plain(path) for path in whole] or None,
        task_type=_TASKS.get(run.experiment.model.get("head", "sequence_classification")),
        fan_in_fan_out=bool(conv1d),
        base_model_name_or_path=run.experiment.model["checkpoint"],
        revision=run.experiment.model.get("revision"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's use of transformers
        warnings.simplefilter("ignore", UserWarning)  # PEFT on layers that are, or are not, Conv1D
        model: Any = get_peft_model(initial.released(), config)
    inside = model.base_model.model
    for path, pair in pairs.items():
        _fill(inside.get_submodule(_plain(path)), pair)
    for path in whole:
        _fill_whole(inside.get_submodule(_plain(path)), run.weights, path)
    return model


def _plain(path: str) -> str:
    return path.removeprefix("model.")


def _fill(layer: Any, pair: Pair) -> None:
    if len(layer.lora_embedding_A):  # of an embedding, PEFT adapts the transpose
        layer.lora_embedding_A["default"].copy_(pair.B.T)
        layer.lora_embedding_B["default"].copy_(pair.A.T)
        return
    for part, factor in ((layer.lora_A, pair.A), (layer.lora_B, pair.B)):
        weight = part["default"].weight
        weight.copy_(factor.reshape(weight.shape))


def _fill_whole(module: Any, weights: Mapping[str, Tensor], path: str) -> None:
    own = module.modules_to_save["default"]
    own.load_state_dict(dict(_below(weights, path)))


def _below(weights: Mapping[str, Tensor], path: str) -> Iterator[tuple[str, Tensor]]:
    """What a state dict has of one module."""
    return ((name.removeprefix(f"{path}."), w) for name, w in weights.items() if name.startswith(f"{path}."))
