"""What is on top of a model of ``transformers``, and what its configuration says of dropout."""

from typing import Any, Literal

Head = Literal["sequence_classification", "token_classification", "causal_lm", "image_classification"]
# What is on top, and the class of transformers that has it.
HEADS: dict[str, str] = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "causal_lm": "AutoModelForCausalLM",
    "image_classification": "AutoModelForImageClassification",
}


def dropouts(config: Any) -> dict[str, float]:
    """The probabilities of a configuration's dropouts, by name."""
    words = ("dropout", "pdrop", "drop_path")
    names = [name for name in config.to_dict() if any(word in name for word in words)]
    found = {name: getattr(config, name) for name in names}
    return {name: p for name, p in found.items() if isinstance(p, float | int) and not isinstance(p, bool)}
