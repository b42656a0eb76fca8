"""The model card: what a model was trained from, on what, how, and how well it does."""

from pathlib import Path

from omegaconf import OmegaConf

from fedrac.experiment.finished_run import FinishedRun
from fedrac.results.record import write_atomically

_USE = {
    "hf": """```python
from transformers import AutoTokenizer, {auto}

model = {auto}.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```""",
    "peft": """```python
from peft import PeftModel
from transformers import {auto}

base = {auto}.from_pretrained("{base}"{options})
model = PeftModel.from_pretrained(base, "FOLDER")
```""",
    "safetensors": """`model.safetensors` is a state dict under the names of the model that fedrac trained:

```python
from safetensors.torch import load_file

model.load_state_dict(load_file("FOLDER/model.safetensors"))
```""",
}


def write(run: FinishedRun, folder: Path, to: str, notes: str) -> None:
    """Writes ``README.md``.

    Args:
        to: the format, ``hf``, ``peft`` or ``safetensors``.
        notes: what is to be said of this export.
    """
    parts = [_front(run, to), "# Model trained with fedrac", _what(run), notes, "## Use", _use(run, to)]
    parts += ["## Data", _section(run, "data", "partition"), "## Results", _results(run)]
    parts += ["## Configuration", _yaml(OmegaConf.to_yaml(run.settings, resolve=True))]
    write_atomically(folder / "README.md", "\n\n".join(part for part in parts if part) + "\n")


def _front(run: FinishedRun, to: str) -> str:
    base = run.experiment.model.get("checkpoint")
    about = {"library_name": {"hf": "transformers"}.get(to, to), "tags": ["federated-learning", "fedrac", "lora"]}
    if base and not Path(base).is_absolute():  # the hub wants a name of its own here, not a folder
        about["base_model"] = base
    return f"---\n{OmegaConf.to_yaml(about).strip()}\n---"


def _what(run: FinishedRun) -> str:
    e, base = run.experiment, run.experiment.model.get("checkpoint", run.experiment.model["_target_"])
    return (
        f"`{base}`, fine-tuned by {e.method.name} ({' and '.join(e.method.sides)} sketch) in {run.round} rounds of "
        f"{e.cohort.size} clients each, seed {e.seed}."
    )


def _use(run: FinishedRun, to: str) -> str:
    from fedrac.models.heads import HEADS

    model = run.experiment.model
    outputs = model.get("outputs")
    options = f", num_labels={outputs}" if outputs is not None and model.get("head") != "causal_lm" else ""
    use = _USE[to].replace("{auto}", HEADS[model.get("head", "sequence_classification")])
    return use.replace("{base}", str(model.get("checkpoint"))).replace("{options}", options)


def _results(run: FinishedRun) -> str:
    if not run.metrics:
        return "The run was not evaluated."
    rows = [f"| {name} | {value:.4f} |" for name, value in sorted(run.metrics.items())]
    return "\n".join(["| after the last round | |", "|---|---|", *rows])


def _section(run: FinishedRun, *names: str) -> str:
    return _yaml(OmegaConf.to_yaml({name: run.settings[name] for name in names}))


def _yaml(text: str) -> str:
    return f"```yaml\n{text.strip()}\n```"
