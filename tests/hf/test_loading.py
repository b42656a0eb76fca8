"""What a checkpoint becomes, and what is said of one that does not fit, before any training."""

import json
import re
import subprocess
import sys

import pytest
import torch
from checkpoints import bert, gpt2, llama, make, roberta, vit
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedrac import models
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.experiment import compose
from fedrac.experiment.settings import ConfigError, parse
from fedrac.models.hf import HuggingFace, checkpoint
from fedrac.models.sentence import sentence


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved checkpoint of each architecture."""
    made = {}
    for factory in (bert, roberta, gpt2, llama, vit):
        made[factory] = tmp_path_factory.mktemp(factory.__name__)
        make(factory).model.float().save_pretrained(made[factory])
    return made


def trained(model, **names):
    """Names of what is trained, and the ranks, by the words of PEFT as a configuration has them."""
    given = ["model=hf", "model.checkpoint=x", "rank=3", *(f"adapt.{key}={value}" for key, value in names.items())]
    return {b.name: b.rank for b in plan_blocks(model, parse(compose.load(given)).adapt, Method())}


def test_target_modules_are_ends_of_paths(folders):
    found = trained(
        checkpoint(str(folders[bert]), outputs=3), target_modules="[query,output.dense]", modules_to_save="[]"
    )
    ends = ("attention.self.query", "attention.output.dense", "output.dense")
    assert set(found) == {f"model.bert.encoder.layer.{i}.{end}.weight" for i in (0, 1) for end in ends}
    assert set(found.values()) == {3}


def test_all_linear_leaves_out_the_head_and_the_embeddings(folders):
    model = checkpoint(str(folders[roberta]), outputs=3)
    found = trained(model)
    layers = {
        f"{path}.weight" for path, m in model.named_modules() if isinstance(m, nn.Linear) and "classifier" not in path
    }
    assert {name for name, rank in found.items() if rank == 3} == layers
    head = {f"model.classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")}
    assert {name for name, rank in found.items() if rank is None} == head
    decoder = checkpoint(str(folders[llama]), head="causal_lm")
    assert not [name for name in trained(decoder, modules_to_save="[]") if "lm_head" in name or "embed" in name]


def test_alpha_is_that_of_peft(folders):
    adapt = parse(compose.load(["model=hf", "model.checkpoint=x", "rank=4", "adapt.lora_alpha=6"])).adapt
    assert {b.scale for b in plan_blocks(checkpoint(str(folders[bert]), outputs=3), adapt, Method()) if b.rank} == {1.5}


def test_wrong_names_are_told_with_the_nearest(folders):
    model = checkpoint(str(folders[bert]), outputs=3)
    with pytest.raises(ValueError, match=r"adapt.target_modules: 'querry' matches nothing in the model; near: query"):
        trained(model, target_modules="[querry,value]")
    with pytest.raises(ValueError, match=r"adapt.modules_to_save: 'clasifier' matches .*; near: .*classifier"):
        trained(model, modules_to_save="[clasifier]")
    with pytest.raises(ConfigError, match=r"adapt.target_modules=3: give a list of names"):
        trained(model, target_modules="3")


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (vit, {}, "is a vit, which has no such head: set model.head=image_classification"),
        (
            bert,
            {"head": "image_classification"},
            "is a bert, which has no such head: set model.head=sequence",
        ),
        (bert, {"outputs": 5}, r"shape \(3,\) there and \(5,\) here: set model.outputs=3, or model.new_head=true"),
        (bert, {"head": "masked_lm"}, "model.head='masked_lm' is unknown: choose one of sequence_classification"),
        (bert, {"autocast": "float16"}, "model.autocast='float16' is unknown: choose bfloat16"),
        (bert, {"outputs": 3, "gradient_checkpointing": True, "dropout": 0.1}, "set model.dropout=0"),
    ],
)
def test_options_that_do_not_fit(folders, factory, options, message):
    with pytest.raises(ValueError, match=message):
        checkpoint(str(folders[factory]), **options)


def test_checkpoint_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"is no folder here and could not be loaded from the hub .* Give a folder"):
        checkpoint("nobody/nothing")
    with pytest.raises(ValueError, match=re.escape(f"model.checkpoint={tmp_path} cannot be read")):
        checkpoint(str(tmp_path))


def test_pickles_are_not_read(folders, tmp_path):
    """The older format of weights."""
    make(bert).model.config.save_pretrained(tmp_path)
    torch.save(make(bert).model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot be read: .*safetensors"):
        checkpoint(str(tmp_path), outputs=3)


@pytest.mark.parametrize("how", [{"load_in_4bit": True, "quant_method": "bitsandbytes"}, {"quant_method": "gptq"}])
def test_quantized_weights_are_refused(folders, tmp_path, how):
    described = json.loads((folders[bert] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**described, "quantization_config": how}))
    for pretrained in (True, False):
        with pytest.raises(ValueError, match="has quantized weights, and no update can be merged into those: give the"):
            checkpoint(str(tmp_path), outputs=3, pretrained=pretrained)


def test_weights_of_another_model(folders, tmp_path):
    make(roberta).model.save_pretrained(tmp_path)
    make(bert).model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no weights for bert.*: it is a checkpoint of another model"):
        checkpoint(str(tmp_path), outputs=3)
    with pytest.raises(ValueError, match=r"has no weights for embeddings.*: it is a checkpoint of another model"):
        sentence(str(tmp_path))


def test_new_head_starts_from_the_seed(folders, caplog):
    spec = {"_target_": "fedrac.models.hf.checkpoint", "checkpoint": str(folders[bert]), "outputs": 5, "new_head": True}
    a, b, c = (models.build(spec, seed) for seed in (1, 1, 2))
    heads = [model.model.classifier.weight for model in (a, b, c)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert isinstance(a, HuggingFace)
    assert set(a.fresh) == {"model.classifier.weight", "model.classifier.bias"}


def test_model_without_pretraining_has_random_weights(folders):
    spec = {"_target_": "fedrac.models.hf.checkpoint", "checkpoint": str(folders[bert]), "pretrained": False}
    a, b = (models.build({**spec, "outputs": 3}, seed) for seed in (1, 1))
    weights = [model.model.bert.embeddings.word_embeddings.weight for model in (a, b)]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], make(bert).model.float().bert.embeddings.word_embeddings.weight)


def test_conv1d_becomes_linear_and_comes_back(folders):
    model = checkpoint(str(folders[gpt2]), head="causal_lm")
    assert not any(isinstance(m, Conv1D) for m in model.modules())
    assert len(model.conv1d) == 8  # four in each of two blocks
    back, whole = model.released().state_dict(), make(gpt2).model.float().state_dict()
    assert set(back) == set(whole)
    assert all(torch.equal(back[name], weight) for name, weight in whole.items())


def test_texts_and_images_of_the_wrong_shape(folders):
    model = checkpoint(str(folders[bert]), outputs=3)
    with pytest.raises(ValueError, match=r"a text is token ids over their attention mask, \(2, length\), not of shape"):
        model(torch.ones(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"a text has 17 tokens but the model takes 16: set data.max_length=16"):
        model(torch.ones(2, 2, 17, dtype=torch.int64))
    # RoBERTa counts its positions from the padding's id on
    assert checkpoint(str(folders[roberta]), outputs=3).max_length == 15


def test_transformers_is_imported_for_its_models_only():
    code = "import sys, fedrac.experiment.run, fedrac.cli.main, fedrac.models.hf\n"
    code += "print({'transformers', 'peft'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_transformers_that_is_not_installed(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "fedrac.models.hub", None)
    monkeypatch.delattr("fedrac.models.hub", raising=False)
    with pytest.raises(ValueError, match=r"model=hf needs the package transformers: pip install 'fedrac\[hf\]'"):
        checkpoint(str(folders[bert]))


def test_full_patterns_beside_the_words_of_peft(folders):
    spec = AdaptSpec({"all-linear": 2, "*.pooler.dense": "frozen"}, ["head", "*.LayerNorm.weight"])
    found = {b.name: b.rank for b in plan_blocks(checkpoint(str(folders[bert]), outputs=3), spec, Method())}
    assert "model.bert.pooler.dense.weight" not in found
    assert found["model.bert.embeddings.LayerNorm.weight"] is None
