"""What comes out of a run loads in the tools of others and predicts the same."""

import json

import checkpoints
import pytest
import torch
import transformers
from checkpoints import bert, gpt2, gpt2_classifier, llama, make, roberta, vit
from peft import PeftModel
from safetensors.torch import load_file

from fedrac.cli import commands
from fedrac.data import Data, Examples
from fedrac.data.tokens import join
from fedrac.experiment import compose, finished_run
from fedrac.experiment.export.lora import best_pair
from fedrac.experiment.export.pretrained import of_transformers
from fedrac.experiment.run import run
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.models import linear
from fedrac.models.hf import HEADS

HEAD_OF = {gpt2: "causal_lm", llama: "causal_lm", vit: "image_classification"}
FACTORIES = (bert, roberta, gpt2, gpt2_classifier, llama, vit)
every_factory = pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's
ROUNDS, RANK = 2, 2
LABELS = ("bad", "fair", "good")


def data(factory: str) -> Data:
    """The data of one of the architectures as a loader returns them; also named in a configuration."""
    work = make(getattr(checkpoints, factory))
    inputs, targets = work.whole(torch.arange(sum(checkpoints.SIZES)))
    if "pixel_values" in work.inputs:
        part = Examples(inputs.float().numpy(), targets.numpy())
    else:
        ids, mask, *types = inputs.unbind(1)
        rows = [[x[m == 1].tolist() for x, m in zip(column, mask, strict=True)] for column in (ids, *types)]
        part = Examples(
            join(rows[0], 0, rows[1] if types else None), None if work.task == "causal_lm" else targets.numpy()
        )
    labels = () if work.task == "causal_lm" else LABELS
    return Data(part, part, work.task, len(labels) or 23, f"hf-{factory}", labels)


@pytest.fixture(scope="session")
def finish(tmp_path_factory):
    """Runs an experiment on a checkpoint of its own, once; returns the folders of the checkpoint and of the run."""
    done = {}

    def once(factory, *overrides):
        if (key := (factory, overrides)) not in done:
            folder = tmp_path_factory.mktemp(factory.__name__)
            make(factory).model.float().save_pretrained(folder / "base")
            group = {"causal_lm": "hf_causal_lm", "image_classification": "hf_image"}.get(HEAD_OF.get(factory), "hf")
            chosen = f"""
                model={group} model.checkpoint={folder}/base pretrain=none output_dir={folder}/run
                data=custom data._target_={__name__}.data +data.factory={factory.__name__}
                partition=iid partition.clients=3 cohort.size=2 rounds={ROUNDS} rank={RANK} seed=3
                local.lr=0.05 local.batch_size=4
            """.split()
            outputs = [] if group == "hf_causal_lm" else ["model.outputs=3"]
            settings = compose.load([*chosen, *outputs, *overrides])
            run(settings, InProcessGrid(client_app.app, 1), folder / "run")
            done[key] = folder / "base", folder / "run"
        return done[key]

    return once


def load(factory, folder):
    kind = getattr(transformers, HEADS[HEAD_OF.get(factory, "sequence_classification")])
    return kind.from_pretrained(folder)


def logits(model, factory):
    work = make(factory)
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in work.inputs.items()}
    with torch.no_grad():
        out = model.eval()(**inputs).logits
    return out[work.targets != -100] if work.task == "causal_lm" else out


def learnt(factory, folder):
    """Logits of the run's model, as fedrac computes them."""
    work = make(factory)
    inputs, _ = work.whole(torch.arange(sum(checkpoints.SIZES)))
    with torch.no_grad():
        out = finished_run.read(folder).model()(inputs.float() if inputs.is_floating_point() else inputs)
    return out[work.targets != -100] if work.task == "causal_lm" else out


@every_factory
def test_merged_model_loads_in_transformers(factory, finish):
    base, folder = finish(factory)
    out = folder / "export-hf"
    assert commands.run("export", [str(folder), "--to", "hf"]) == 0
    expected = learnt(factory, folder)
    model = load(factory, out)
    torch.testing.assert_close(logits(model, factory), expected, rtol=1e-5, atol=1e-5)
    assert factory in (gpt2, llama) or tuple(model.config.id2label.values()) == LABELS
    assert (logits(load(factory, base), factory) - expected).abs().max() > 1e-2  # it has learnt


@every_factory
def test_adapter_of_full_rank_loads_in_peft(factory, finish, capsys):
    base, folder = finish(factory)
    out = folder / "adapter"
    assert commands.run("export", [str(folder), "--to", "peft", "--rank", "full", "--output", str(out)]) == 0
    assert "keeps 100.0% of the update" in capsys.readouterr().out
    assert json.loads((out / "adapter_config.json").read_text())["r"] == ROUNDS * RANK
    model = PeftModel.from_pretrained(load(factory, base), out)
    torch.testing.assert_close(logits(model, factory), learnt(factory, folder), rtol=1e-4, atol=1e-4)


def test_adapter_of_convolutions_and_embeddings(finish):
    for factory, layer in ((vit, "projection"), (bert, "word_embeddings"), (llama, "embed_tokens")):
        base, folder = finish(factory, f"adapt.target_modules=[{layer}]")
        out = folder / "adapter"
        commands.run("export", [str(folder), "--to", "peft", "--rank", "full", "--output", str(out)])
        model = PeftModel.from_pretrained(load(factory, base), out)
        torch.testing.assert_close(logits(model, factory), learnt(factory, folder), rtol=1e-4, atol=1e-4)


def test_full_matrices_as_an_adapter(finish):
    base, folder = finish(bert, "method=fedavg")
    for rank in ("full", "1"):
        commands.run("export", [str(folder), "--to", "peft", "--rank", rank, "--output", str(folder / rank)])
        error = logits(PeftModel.from_pretrained(load(bert, base), folder / rank), bert) - learnt(bert, folder)
        assert (error.abs().max() < 1e-4) == (rank == "full")


def test_norms_that_are_trained_are_saved_whole(finish):
    base, folder = finish(bert, "adapt.modules_to_save=[head,LayerNorm]")
    commands.run("export", [str(folder), "--to", "peft"])
    model = PeftModel.from_pretrained(load(bert, base), folder / "export-peft")
    torch.testing.assert_close(logits(model, bert), learnt(bert, folder), rtol=1e-4, atol=1e-4)


def test_tied_embedding_is_no_adapter(finish):
    _, folder = finish(gpt2, "adapt.target_modules=[wte]")
    with pytest.raises(ValueError, match=r"wte.weight is tied to model.lm_head.weight.*use --to hf"):
        commands.run("export", [str(folder), "--to", "peft"])
    assert not [path for path in folder.iterdir() if "export" in path.name]
    commands.run("export", [str(folder), "--to", "hf"])
    torch.testing.assert_close(
        logits(load(gpt2, folder / "export-hf"), gpt2), learnt(gpt2, folder), rtol=1e-5, atol=1e-5
    )


def test_best_pair_is_the_best_of_its_rank():
    """Its error is the norm of the singular values that are left out; no other pair of that rank comes closer."""
    g = torch.Generator().manual_seed(0)
    update = torch.randn(9, 6, generator=g, dtype=torch.float64)
    values = torch.linalg.svdvals(update)
    for rank in (1, 3, 6):
        pair = best_pair(update, rank)
        error = (update - pair.B.double() @ pair.A.double()).square().sum()
        torch.testing.assert_close(error, values[rank:].square().sum(), rtol=1e-5, atol=1e-9)
        assert pair.kept / pair.total == pytest.approx(float(values[:rank].square().sum() / values.square().sum()))
    assert len(best_pair(update[:, :2] @ torch.randn(2, 6, generator=g, dtype=torch.float64), 5).A) == 2
    assert not best_pair(torch.zeros(4, 3), 2).A.any()


def test_card_says_where_the_model_comes_from(finish):
    base, folder = finish(bert)
    commands.run("export", [str(folder), "--to", "safetensors"])
    card = (folder / "export-safetensors" / "README.md").read_text()
    for text in (str(base), "2 rounds of 2 clients", "test/accuracy", "factory: bert", "scheme: iid", "rank: 2"):
        assert text in card
    weights = finished_run.read(folder).weights
    stored = load_file(folder / "export-safetensors" / "model.safetensors")
    assert all(torch.equal(stored[name], weight) for name, weight in weights.items())


def test_wrong_words(finish, tmp_path):
    _, folder = finish(bert)
    with pytest.raises(ValueError, match="--rank 0: give a whole number of at least 1, or full"):
        commands.run("export", [str(folder), "--to", "peft", "--rank", "0"])
    with pytest.raises(FileExistsError, match="is there already: give another folder by --output"):
        commands.run("export", [str(folder), "--to", "hf", "--output", str(folder)])
    with pytest.raises(FileNotFoundError, match=r"has no config.yaml: give the output_dir of a run"):
        commands.run("export", [str(tmp_path), "--to", "hf"])


def test_models_of_ones_own_are_state_dicts():
    with pytest.raises(ValueError, match="the run trained a Dense, which is no model of transformers: use --to safe"):
        of_transformers(linear(3, 2))
