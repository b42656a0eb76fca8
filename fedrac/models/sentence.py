"""Sentence encoders: a linear layer on the mean of a text's last hidden states.

Such encoders (the models of sentence-transformers, MiniLM among them) are trained so that this mean carries the meaning
of a text. The first token and the pooler, which sequence classification reads, are not.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fedrac.models.hf import HuggingFace, autocast_dtype


class MeanPooled(nn.Module):
    """An encoder of ``transformers`` with a linear ``head`` on the mean of a text's tokens.

    Args:
        encoder: returns ``last_hidden_state`` (rows, length, hidden size). Its pooler, if it has one, is taken off.
        outputs: classes, or values of a regression.
    """

    base_model_prefix = "encoder"

    def __init__(self, encoder: Any, outputs: int) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        self.encoder, self.config = encoder, encoder.config
        self.head = nn.Linear(self.config.hidden_size, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Tensor) -> SimpleNamespace:
        """``logits`` (rows, outputs) of token ids (rows, length) with their mask."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **others).last_hidden_state
        real = attention_mask[..., None].to(hidden.dtype)
        return SimpleNamespace(logits=self.head((hidden * real).sum(1) / real.sum(1)))


def sentence(
    checkpoint: str,
    outputs: int = 2,
    layers: int | None = None,
    revision: str | None = None,
    attention: str | None = None,
    dropout: float | None = None,
    autocast: str | None = None,
) -> HuggingFace:
    """A sentence encoder of the hub, or in a folder that ``save_pretrained`` wrote, with a new head.

    Args:
        checkpoint, revision, attention, dropout, autocast: as for `fedrac.models.hf.checkpoint`.
        outputs: classes, or values of a regression.
        layers: of the encoder that are kept, from below; None: all. Without the last ones, which are made for the
            similarity of texts, a classification is faster and may be better.

    Raises:
        ValueError: the checkpoint cannot be loaded, has fewer layers, or an option is unknown.
    """
    dtype = autocast_dtype(autocast)
    try:
        from fedrac.models import hub  # transformers takes seconds to import
    except ImportError as error:
        raise ValueError("model=sentence needs the package transformers: pip install 'fedrac[hf]'") from error
    config = hub.configuration(checkpoint, revision, None, dropout)
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise ValueError(f"model.layers={layers}: the checkpoint has {config.num_hidden_layers}, give 1 to as many")
        config.num_hidden_layers = layers
    encoder, _ = hub.model("AutoModel", checkpoint, revision, config, attention, True, False)
    model = MeanPooled(encoder.to(torch.float32), outputs)
    return HuggingFace(model, dtype, ("head.weight", "head.bias"))
