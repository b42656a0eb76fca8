"""The merged model as ``transformers`` saves it, with its tokenizer."""

import logging
from pathlib import Path

from torch import nn

from fedrac.experiment.finished_run import FinishedRun
from fedrac.models.hf import HuggingFace

log = logging.getLogger(__name__)


def save(run: FinishedRun, folder: Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer's files; ``from_pretrained(folder)`` reads them.

    Raises:
        ValueError: the run's model is not one of transformers.
    """
    model = of_transformers(run.model())
    from fedrac.models.hub import quiet

    save_tokenizer(run, folder)
    released = model.released()
    if run.labels:
        released.config.id2label = dict(enumerate(run.labels))
        released.config.label2id = {label: number for number, label in enumerate(run.labels)}
    with quiet():
        released.save_pretrained(folder)


def of_transformers(model: nn.Module) -> HuggingFace:
    """The same model; raises ValueError if it is not one of transformers."""
    if not isinstance(model, HuggingFace):
        raise ValueError(
            f"the run trained a {type(model).__name__}, which is no model of transformers: use --to safetensors"
        )
    return model


def save_tokenizer(run: FinishedRun, folder: Path) -> None:
    """The checkpoint's tokenizer or image processor, where it has one."""
    from transformers import AutoImageProcessor, AutoTokenizer

    images = run.experiment.model.get("head") == "image_classification"
    source = run.experiment.data.get("tokenizer") or run.experiment.model["checkpoint"]
    try:
        (AutoImageProcessor if images else AutoTokenizer).from_pretrained(source).save_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        log.warning("no tokenizer or image processor is saved: %s", " ".join(str(error).split()))
