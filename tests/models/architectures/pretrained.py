"""Models of transformers, tiny, with random weights: what all of them share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from architectures.architecture import CLASSES, WORDS, Architecture, images, texts
from fedrac.models.heads import dropouts
from fedrac.models.hf import HuggingFace

# What configurations call their sizes; each takes those that it knows.
SMALL: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 24, "num_labels": CLASSES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def make(kind: str, head: str, **options: Any) -> nn.Module:
    """A model of transformers, e.g. ``make("Bert", "ForSequenceClassification")``, without dropout."""
    without = options.pop("without", ())
    sizes = {name: value for name, value in SMALL.items() if name not in without}
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **options})
    for name in dropouts(config):
        setattr(config, name, 0.0)
    for name in ("drop_path_rate", "layerdrop", "encoder_layerdrop", "decoder_layerdrop", "apply_spec_augment"):
        if isinstance(value := getattr(config, name, None), int | float):
            setattr(config, name, type(value)(0))
    return getattr(transformers, f"{kind.removesuffix('Text')}{head}")(config)


def wrapped(kind: str, head: str, **options: Any) -> nn.Module:
    """The same as `fedrac.models.hf` has it."""
    return HuggingFace(make(kind, head, **options))


class FromWords(nn.Module):
    """An encoder and a decoder, both with the same words: a label, or the next word, for each word of the decoder."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        words, mask = x.unbind(1)
        return self.model(input_ids=words, attention_mask=mask, decoder_input_ids=words, use_cache=False)


class Waves(nn.Module):
    """A model of sounds: (rows, samples), or (rows, bands, times)."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Any:
        return self.model(**{self.name: x})


def waves(*shape: int) -> Tensor:
    return torch.randn(16, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def encoder(name: str, kind: str, pairs: bool = False, **options: Any) -> Architecture:
    head, task = ("Token", "tagging") if options.pop("tagging", False) else ("Sequence", "classification")
    model = partial(wrapped, kind, f"For{head}Classification")
    return _of(name, "transformers: encoders", model, partial(texts, pairs), task, options)


def decoder(name: str, kind: str, head: str = "ForCausalLM", family: str = "decoders", **options: Any) -> Architecture:
    return _of(name, f"transformers: {family}", partial(wrapped, kind, head), texts, "causal_lm", options)


def both(name: str, kind: str, head: str = "ForConditionalGeneration", **options: Any) -> Architecture:
    return _of(name, "transformers: encoder and decoder", lambda **o: FromWords(make(kind, head, **o)), texts,
               "causal_lm", options)  # fmt: skip


def image(name: str, kind: str, size: int = 16, **options: Any) -> Architecture:
    return _of(name, "transformers: images", partial(wrapped, kind, "ForImageClassification"), partial(images, size),
               "classification", {"image_size": size, **options})  # fmt: skip


def sound(name: str, kind: str, head: str, argument: str, inputs: Callable[[], Tensor], **options: Any) -> Architecture:
    return _of(name, "transformers: sounds", lambda **o: Waves(make(kind, head, **o), argument), inputs,
               "classification", options)  # fmt: skip


def _of(
    name: str, family: str, model: Callable[..., nn.Module], inputs: Callable[[], Tensor], task: str, options: Any
) -> Architecture:
    options = dict(options)
    refused, quick = options.pop("refused", ()), options.pop("quick", False)
    return Architecture(name, family, partial(model, **options), inputs, task, refused, quick)
