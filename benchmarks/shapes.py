"""Language models of known shapes with random weights, and texts for them."""

from typing import Any

import numpy as np
import torch

from benchmarks import texts
from fedrac.data import Data, Examples
from fedrac.models.hf import HuggingFace

ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "num_labels": 2}
TINY_LLAMA = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048,
}  # fmt: skip
TESTED = 32  # reviews


def roberta(dropout: float = 0.0) -> HuggingFace:
    """RoBERTa-base for two classes."""
    return HuggingFace(roberta_itself(dropout))


def roberta_itself(dropout: float) -> Any:
    """The same as transformers makes it."""
    import transformers

    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**ROBERTA, **rates))


def tiny_llama() -> HuggingFace:
    """TinyLlama, 1.1 B parameters, made in bfloat16."""
    import transformers

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return HuggingFace(transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY_LLAMA)))
    finally:
        torch.set_default_dtype(before)


def reviews(clients: int, each: int) -> Data:
    """Texts as long as film reviews, with two labels; the last `TESTED` are for testing."""
    rng, count = np.random.default_rng(1), clients * each + TESTED
    tokens, labels = texts.reviews(count, ROBERTA["vocab_size"], rng), rng.integers(2, size=count)
    whole = Examples(tokens, labels, np.arange(count) // each)
    cut = clients * each
    return Data(whole.take(np.arange(cut)), whole.take(np.arange(cut, count)), "classification", 2, "")


def equal_texts(clients: int, each: int, length: int) -> Data:
    """Texts of so many tokens each, for a language model."""
    rng, count = np.random.default_rng(1), clients * each
    tokens = texts.of_lengths(np.full(count, length), TINY_LLAMA["vocab_size"], rng)
    whole = Examples(tokens, None, np.arange(count) // each)
    return Data(whole, whole.take(np.arange(each)), "causal_lm", TINY_LLAMA["vocab_size"], "")
