"""Checkpoints of Hugging Face ``transformers``: encoders, decoders and image models.

What goes in and what comes out:

- Texts come as one int64 tensor (rows, 2, length), padded on the right: token ids, then the attention mask (1: a token,
  0: padding). For models that tell two texts apart it is (rows, 3, length), the third being the token types. Padding
  may have any id: it is replaced by the checkpoint's ``pad_token_id``.
- Images come as one float tensor (rows, channels, height, width), normalised as the checkpoint wants it.
- Outputs are logits: (rows, classes) of a classification, (rows, k) of a regression or of several labels, (rows,
  length, classes) of a label for each token, (rows, length, vocabulary) of a causal language model, where those at t
  predict token t + 1.
"""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fedrac.models.heads import HEADS, Head, dropouts


class HuggingFace(nn.Module):
    """A model of ``transformers`` that returns logits; see the top of this file.

    Attributes:
        model: the model, with an ``nn.Linear`` in the place of every ``Conv1D``.
        conv1d: paths of these layers in ``model``.
        heads: paths of the modules on top of the encoder or decoder.
        fresh: parameters that the checkpoint did not have, so that they start with random weights.
        max_length: most tokens of a text that the model takes; None: any number, or no text.

    Args:
        model: any ``PreTrainedModel``.
        autocast: dtype of the products, where the weights have another one; None: as the weights.
        fresh: names of such parameters in ``model``.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None, fresh: Iterable[str] = ()) -> None:
        super().__init__()
        self.fresh = tuple(f"model.{name}" for name in fresh)
        self.conv1d = linear_for_conv1d(model)
        self.model: Any = model
        config: Any = self.model.config
        if getattr(config, "pad_token_id", None) is None:  # a classification must know where a text ends
            end = getattr(config, "eos_token_id", None) or 0
            config.pad_token_id = end[0] if isinstance(end, list) else end
        self.autocast = autocast
        self.heads = tuple(f"model.{name}" for name, _ in _heads(model))
        self.max_length = _max_length(config)
        # Training predicts all tokens at once: there is nothing to keep for the next one.
        self._options = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}

    def forward(self, x: Tensor) -> Tensor:
        """Logits of texts (rows, 2 or 3, length), or of images (rows, channels, height, width).

        Raises:
            ValueError: integers of another shape, or a text longer than the model takes.
        """
        inputs = {"pixel_values": x} if x.is_floating_point() else self._text(x)
        with nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast):
            logits: Tensor = self.model(**inputs, **self._options).logits
        return logits

    def released(self) -> Any:
        """The model as transformers makes it, with its ``Conv1D`` layers; this object cannot be used any more."""
        model, self.model = self.model, None
        conv1d_for_linear(model, self.conv1d)
        return model

    def _text(self, x: Tensor) -> dict[str, Tensor]:
        if x.ndim != 3 or x.shape[1] not in (2, 3):
            raise ValueError(
                f"a text is token ids over their attention mask, (2, length), not of shape {tuple(x.shape[1:])}: use "
                "data=text, or choose a model for other data"
            )
        if self.max_length is not None and x.shape[2] > self.max_length:
            raise ValueError(
                f"a text has {x.shape[2]} tokens but the model takes {self.max_length}: set "
                f"data.max_length={self.max_length}"
            )
        ids, mask, *types = x.unbind(1)
        inputs = {"input_ids": ids.masked_fill(mask == 0, self.model.config.pad_token_id), "attention_mask": mask}
        return inputs | ({"token_type_ids": types[0]} if types else {})


def checkpoint(
    checkpoint: str,
    head: Head = "sequence_classification",
    outputs: int | None = None,
    revision: str | None = None,
    pretrained: bool = True,
    new_head: bool = False,
    attention: str | None = None,
    dropout: float | None = None,
    gradient_checkpointing: bool = False,
    autocast: str | None = None,
) -> HuggingFace:
    """A checkpoint of the hub, or a folder that ``save_pretrained`` wrote.

    Args:
        checkpoint: the hub's name or the folder.
        head: what is on top.
        outputs: classes, or values of a regression; not for ``causal_lm``.
        revision: of the hub's repository.
        pretrained: False takes the configuration alone; the weights are random.
        new_head: start a classification head of its own where the checkpoint's has another number of outputs.
        attention: ``eager``, ``sdpa``, ...; None: as transformers chooses.
        dropout: replaces every dropout of the configuration; None: as the checkpoint has it.
        gradient_checkpointing: compute activations once more in the backward pass instead of keeping them.
        autocast: ``bfloat16`` computes products in it; None: in the dtype of the weights.

    Raises:
        ValueError: the checkpoint cannot be loaded or has weights for another kind of model, or options contradict one
            another.
    """
    if head not in HEADS:
        raise ValueError(f"model.head={head!r} is unknown: choose one of {', '.join(HEADS)}")
    dtype = autocast_dtype(autocast)
    try:
        from fedrac.models import hub  # transformers takes seconds to import
    except ImportError as error:
        raise ValueError("model=hf needs the package transformers: pip install 'fedrac[hf]'") from error
    config = hub.configuration(checkpoint, revision, None if head == "causal_lm" else outputs, dropout)
    model, fresh = hub.model(HEADS[head], checkpoint, revision, config, attention, pretrained, new_head)
    if gradient_checkpointing:
        checkpoint_activations(model)
    return HuggingFace(model, dtype, fresh)


def autocast_dtype(name: str | None) -> torch.dtype | None:
    """The dtype that ``model.autocast`` names; raises ValueError for an unknown one."""
    if name not in (None, "bfloat16"):
        raise ValueError(f"model.autocast={name!r} is unknown: choose bfloat16, or null for none")
    return None if name is None else torch.bfloat16


def checkpoint_activations(model: Any) -> None:
    """Lets a model of transformers compute activations again in the backward pass; raises ValueError if it drops."""
    if active := [name for name, p in dropouts(model.config).items() if p > 0]:
        raise ValueError(
            f"model.gradient_checkpointing=true computes every layer twice and would draw its dropout ({active[0]}) "
            "anew: set model.dropout=0"
        )
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def linear_for_conv1d(model: nn.Module) -> list[str]:
    """Puts an ``nn.Linear`` in the place of every ``Conv1D`` (GPT-2), whose weight is the transpose: y = x W + b.

    Returns:
        The paths of these layers.
    """
    from transformers.pytorch_utils import Conv1D

    paths = [path for path, module in model.named_modules() if isinstance(module, Conv1D)]
    for path in paths:
        n, m = model.get_submodule(path).get_parameter("weight").shape
        _replace(model, path, nn.Linear(n, m, device="meta"))
    return paths


def conv1d_for_linear(model: nn.Module, paths: Iterable[str]) -> None:
    """The inverse."""
    from transformers.pytorch_utils import Conv1D

    for path in paths:
        m, n = model.get_submodule(path).get_parameter("weight").shape
        _replace(model, path, Conv1D(m, n))  # type: ignore[no-untyped-call]


def _replace(model: nn.Module, path: str, new: nn.Module) -> None:
    """Puts ``new``, with the transposed weight and the same bias, in the place of a layer."""
    old = model.get_submodule(path)
    weight = old.get_parameter("weight")
    new.weight = nn.Parameter(weight.detach().t().contiguous(), weight.requires_grad)
    new.bias = old.get_parameter("bias")
    model.set_submodule(path, new.train(old.training))


def _heads(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """What lies outside the encoder or decoder and has parameters."""
    body = getattr(model, "base_model_prefix", "")
    if hasattr(model, body):
        yield from ((n, m) for n, m in model.named_children() if n != body and any(True for _ in m.parameters()))


def _max_length(config: Any) -> int | None:
    most: int | None = getattr(config, "max_position_embeddings", None)
    if most is not None and most < 1:  # XLNet's -1: any
        return None
    offset: int = config.pad_token_id + 1 if config.model_type in _OFFSET_POSITIONS else 0
    return None if most is None else most - offset


# Their positions are counted from pad_token_id + 1.
_OFFSET_POSITIONS = ("camembert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta")
