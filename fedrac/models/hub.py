"""Reading a checkpoint of Hugging Face, from the hub or a folder, with errors that say what would be right."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig

from fedrac.models.heads import HEADS, dropouts

log = logging.getLogger(__name__)


def configuration(checkpoint: str, revision: str | None, outputs: int | None, dropout: float | None) -> Any:
    """The checkpoint's configuration, with this number of outputs and this dropout where they are given.

    Raises:
        ValueError: there is none that can be loaded, or its weights are quantized.
    """
    with quiet():
        try:
            config = AutoConfig.from_pretrained(checkpoint, revision=revision)
        except (OSError, ValueError) as error:
            raise ValueError(_not_there(checkpoint, error)) from error
        if outputs is not None and outputs != config.num_labels:
            config.num_labels = outputs
    if getattr(config, "quantization_config", None):
        raise ValueError(
            f"model.checkpoint={checkpoint} has quantized weights, and no update can be merged into those: give the "
            "checkpoint from which they were made (runtime.base_bits=8 or 4 holds its weights in so many)"
        )
    if dropout is not None:
        for name in dropouts(config):
            setattr(config, name, dropout)
    return config


def model(
    kind: str,
    checkpoint: str,
    revision: str | None,
    config: Any,
    attention: str | None,
    pretrained: bool,
    new_head: bool,
) -> tuple[Any, list[str]]:
    """The model, its weights in the dtype in which the checkpoint keeps them.

    Returns:
        The model, and the names of the parameters that start with random weights.

    Raises:
        ValueError: the architecture has no such head, or the weights do not fit.
    """
    cls = getattr(transformers, kind)
    if type(config) not in cls._model_mapping:
        raise ValueError(_no_such_head(checkpoint, config))
    options = {} if attention is None else {"attn_implementation": attention}
    with quiet():
        if not pretrained:
            model = cls.from_config(config, **options)
            return model, [name for name, _ in model.named_parameters()]
        return _weights(cls, checkpoint, {"revision": revision, "config": config, **options}, new_head)


def _weights(cls: Any, checkpoint: str, options: Mapping[str, Any], new_head: bool) -> tuple[Any, list[str]]:
    """Only safetensors are read: the older format is a pickle."""
    try:
        model, report = cls.from_pretrained(
            checkpoint,
            **options,
            dtype="auto",
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except OSError as error:
        raise ValueError(_not_there(checkpoint, error)) from error
    if report["mismatched_keys"] and not new_head:
        name, kept, wanted = sorted(report["mismatched_keys"])[0]
        raise ValueError(
            f"model.checkpoint={checkpoint}: {name} has shape {tuple(kept)} there and {tuple(wanted)} here: set "
            f"model.outputs={kept[0]}, or model.new_head=true to start the head anew"
        )
    bare = not hasattr(model, model.base_model_prefix)  # an encoder without a head: all of it is its body
    body = "" if bare else f"{model.base_model_prefix}."
    fresh = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if lost := [name for name in fresh if name.startswith(body) and "pooler" not in name]:
        raise ValueError(
            f"model.checkpoint={checkpoint} has no weights for {lost[0]} and {len(lost) - 1} others of a "
            f"{type(model).__name__}: it is a checkpoint of another model"
        )
    if fresh:
        _say_once(f"{checkpoint}: starts with random weights: {', '.join(fresh)}")
    return model, fresh


@cache
def _say_once(text: str) -> None:
    """Server and hosts may be one process."""
    log.info(text)


def _not_there(checkpoint: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if Path(checkpoint).is_dir():
        return f"model.checkpoint={checkpoint} cannot be read: {reason}"
    return (
        f"model.checkpoint={checkpoint} is no folder here and could not be loaded from the hub ({reason}) Give a "
        "folder that save_pretrained wrote, with config.json and model.safetensors; HF_HUB_OFFLINE=1 looks in its "
        "local cache alone"
    )


def _no_such_head(checkpoint: str, config: Any) -> str:
    able = [head for head, kind in HEADS.items() if type(config) in getattr(transformers, kind)._model_mapping]
    rule = f"set model.head={able[0]}" if able else "choose another checkpoint"
    return f"model.checkpoint={checkpoint} is a {config.model_type}, which has no such head: {rule}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and reports of transformers; what matters in them is said here."""
    hf: Any = transformers.utils.logging
    before = hf.get_verbosity()
    hf.set_verbosity_error()
    hf.disable_progress_bar()
    try:
        yield
    finally:
        hf.set_verbosity(before)
        hf.enable_progress_bar()
