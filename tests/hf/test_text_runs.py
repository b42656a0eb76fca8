"""Runs on texts, from the configuration to what `fedrac predict` says, with tiny models and data made on the spot."""

import io
import json
import math

import numpy as np
import pandas
import pytest
import torch
import transformers

from fedrac import models
from fedrac.cli import commands
from fedrac.experiment import compose, finished_run
from fedrac.experiment.run import run
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "good", "bad", "film", "plot", "the", "a", "and", "of"]
LAYERS = "adapt.target_modules=[query, value, dense]"
TIED = "adapt.target_modules=[lm_head, c_attn, c_fc, c_proj]"
MOVIES = ("experiment=movies", "model=hf", "~model.layers", "model.autocast=null", "rank=8", "local.batch_size=4")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A checkpoint of RoBERTa with a tokenizer of a dozen words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    folder = tmp_path_factory.mktemp("roberta")
    options = {"model_max_length": 32, "model_input_names": ["input_ids", "attention_mask"]}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special, **options).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"vocab_size": len(WORDS), "max_position_embeddings": 34, "pad_token_id": 1, "type_vocab_size": 1}
        transformers.RobertaModel(transformers.RobertaConfig(**SMALL, **shape)).save_pretrained(folder)
    return folder


def finish(folder, *overrides):
    settings = compose.load([*overrides, f"output_dir={folder}", "seed=1"])
    return run(settings, InProcessGrid(client_app.app, 2), folder)


def predict(folder, *arguments):
    return commands.run("predict", [str(folder), *map(str, arguments)])


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """Two tasks of GLUE as the published archive has them: pairs that are equivalent or score 5 if they are equal."""
    folder = tmp_path_factory.mktemp("glue")
    draw = np.random.default_rng(0)
    for part, count in (("train", 64), ("dev", 24)):
        first = draw.choice(["good", "the film"], count)
        second = np.where(draw.random(count) < 0.5, first, "bad plot")
        pairs = list(zip(first, second, strict=True))
        mrpc = [f"{int(a == b)}\t0\t1\t{a}\t{b}" for a, b in pairs]
        stsb = [f"{i}\t{a}\t{b}\t{5.0 * (a == b) - i / count}" for i, (a, b) in enumerate(pairs)]
        for name, header, rows in (
            ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", mrpc),
            ("STS-B", "index\tsentence1\tsentence2\tscore", stsb),
        ):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{part}.tsv").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.mark.parametrize("experiment", ["glue", "glue_federated"])
@pytest.mark.parametrize(
    "name, outputs, metrics", [("mrpc", 2, ["f1", "accuracy"]), ("stsb", 1, ["pearson", "spearman"])]
)
def test_the_glue_experiments(roberta, glue, tmp_path, experiment, name, outputs, metrics):
    scale = ["partition=iid", "partition.clients=4", "cohort.size=2"] if "federated" in experiment else []
    summary = finish(
        tmp_path / "run", f"experiment={experiment}", f"data.name={name}", f"data.path={glue}", "data.max_length=null",
        f"model.checkpoint={roberta}", f"model.outputs={outputs}", "rounds=6", "local.lr=0.01", "adapt.lora_alpha=2",
        LAYERS, "evaluate.every=6", *scale,
    )  # fmt: skip
    assert {f"test/{metric}" for metric in metrics} <= summary["last"].keys()
    if not scale:
        assert summary["last"]["test/loss"] < summary["initial"]["test/loss"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """90 reviews of 15 films; one word decides. Some rows are neither."""
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    kinds = np.random.default_rng(1).integers(0, 2, 90)
    frame = pandas.DataFrame(
        {
            "text": [f"the {('bad', 'good')[k]} film{' and a plot' * (i % 3)}" for i, k in enumerate(kinds)],
            "category": np.where(np.arange(90) % 10 == 9, "plot", np.array(["rotten", "fresh"])[kinds]),
            "movie_name": [f"m{i % 15}" for i in range(90)],
        }
    )
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def movies(roberta, reviews, tmp_path_factory):
    """A run of the experiment ``movies``; its folder and its summary."""
    folder = tmp_path_factory.mktemp("movies") / "run"
    summary = finish(
        folder, *MOVIES, f"data.path={reviews}", "data.max_length=null",
        f"model.checkpoint={roberta}", LAYERS, "cohort.size=8", "rounds=30",
        "local.lr=0.01", "local.schedule.shape=cosine", "adapt.lora_alpha=8",
    )  # fmt: skip
    return folder, summary


def test_clients_are_movies_and_others_are_held_out(movies):
    folder, summary = movies
    census = np.load(folder / "clients.npz")["labels"]
    assert census.shape == (12, 2) and json.loads((folder / "task.json").read_text())["labels"] == ["rotten", "fresh"]
    assert summary["last"]["test/accuracy"] == 1.0 > summary["initial"]["test/accuracy"]


def test_predictions_of_lines_and_files_are_those_of_transformers(movies, roberta, tmp_path, capsys, monkeypatch):
    folder, _ = movies
    texts = ["the good film", "the bad film and a plot", "the good film and a plot and a plot"]
    assert commands.run("export", [str(folder), "--to", "hf"]) == 0
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "export-hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(roberta)
    with torch.no_grad():
        shares = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(1)
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts)))
    predict(folder)
    answers = lines(capsys)
    assert [answer["label"] for answer in answers] == ["fresh", "rotten", "fresh"]
    for answer, share in zip(answers, shares, strict=True):
        assert answer["probabilities"] == pytest.approx({"rotten": float(share[0]), "fresh": float(share[1])}, abs=1e-4)
    (tmp_path / "t.txt").write_text("\n".join(texts))
    pandas.DataFrame({"text": texts}).to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    for name in ("t.txt", "t.jsonl"):
        predict(folder, tmp_path / name)
        assert lines(capsys) == answers


def test_what_cannot_be_predicted_is_named(movies, tmp_path, monkeypatch):
    folder, _ = movies
    (tmp_path / "t.csv").write_text("txt\na\n")
    np.save(tmp_path / "t.npy", np.zeros((2, 3)))
    for arguments, stdin, message in (
        ([], "good\n\nbad\n", "line 2 is '': give a text on every line"),
        ([tmp_path / "t.csv"], "", "no column 'text' in .*did you mean 'txt'"),
        ([tmp_path / "t.npy"], "", r"does not take inputs of shape \(3,\)"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(ValueError, match=message):
            predict(folder, *arguments)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.csv"):
        predict(folder, tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"has no config\.yaml"):
        predict(tmp_path)


def test_sentence_encoder_is_a_linear_layer_on_the_mean_of_a_texts_tokens(roberta):
    spec = {"_target_": "fedrac.models.sentence.sentence", "checkpoint": str(roberta), "outputs": 3}
    model = models.build(spec, 1)
    encoder = transformers.AutoModel.from_pretrained(roberta).eval()
    short, long = torch.tensor([[0, 8, 4, 2]]), torch.tensor([[0, 8, 5, 6, 10, 2]])
    padded = torch.nn.functional.pad(short, (0, 2), value=7)
    batch = torch.stack([torch.cat([padded, long]), torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])], 1)
    with torch.no_grad():
        means = [encoder(ids).last_hidden_state.mean(1) for ids in (short, long)]
        expected = model.model.head(torch.cat(means))
        torch.testing.assert_close(model.eval()(batch), expected, rtol=0, atol=1e-5)
        rough = models.build({**spec, "autocast": "bfloat16"}, 1).eval()(batch)
    assert 0 < (rough - expected).abs().max() < 0.05 * expected.abs().max()
    for wrong, message in (
        ({"autocast": "half"}, "model.autocast='half' is unknown: choose bfloat16"),
        ({"layers": 3}, "model.layers=3: the checkpoint has 2, give 1 to as many"),
    ):
        with pytest.raises(ValueError, match=message):
            models.build({**spec, **wrong}, 1)


def test_sentence_encoder_may_keep_its_lower_layers_only(roberta):
    spec = {"_target_": "fedrac.models.sentence.sentence", "checkpoint": str(roberta), "layers": 1}
    model = models.build(spec, 1).eval()
    encoder = transformers.AutoModel.from_pretrained(roberta).eval()
    text = torch.tensor([[0, 8, 4, 2]])
    with torch.no_grad():
        first = encoder(text, output_hidden_states=True).hidden_states[1]
        expected = model.model.head(first.mean(1))
        torch.testing.assert_close(model(torch.stack([text, torch.ones_like(text)], 1)), expected, rtol=0, atol=1e-5)


WRONG = {
    "outputs": (["model.outputs=1"], "label 1 but the model has 1 outputs: set model.outputs=2"),
    "tokens": (["data.tokenizer=bytes", "data.max_length=8"], "does not take these texts, of up to 8 tokens"),
    "length": (["data.max_length=33"], "data.max_length=33, but the model of .* reads 32: lower it"),
    "refused": (["data.max_length=6", "data.too_long=refuse"], "texts are longer than data.max_length=6"),
    "column": (["data.text=txt"], "no column 'txt' in .*: did you mean 'text'"),
    "head": (["data.task=causal_lm"], "choose a model with a language-model head"),
}


@pytest.mark.parametrize("overrides, message", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_before_any_training(roberta, reviews, tmp_path, overrides, message):
    base = [f"data.path={reviews}", "data.max_length=null", f"model.checkpoint={roberta}", "cohort.size=2"]
    with pytest.raises((ValueError, RuntimeError), match=message):
        finish(tmp_path / "run", *MOVIES, *base, LAYERS, *overrides)
    assert not (tmp_path / "run").exists()


def test_a_language_model_learns_to_write(tmp_path, reviews, capsys, monkeypatch):
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 1}
    transformers.GPT2Config(vocab_size=259, **shape).save_pretrained(tmp_path / "tiny")
    summary = finish(
        tmp_path / "run", "experiment=language", f"data.path={reviews}", "data.group=movie_name", "cohort.size=8",
        f"model.checkpoint={tmp_path / 'tiny'}", "rounds=20", "local.lr=0.02", TIED,
    )  # fmt: skip
    assert summary["initial"]["test/loss"] == pytest.approx(math.log(259), rel=0.02)
    assert summary["last"]["test/loss"] < 3.0
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("the goo\n"))
    predict(tmp_path / "run", "--tokens", 5)
    model, ids = finished_run.read(tmp_path / "run").model(), [byte + 3 for byte in b"the goo"]
    while len(ids) < 7 + 5 and ids[-1] != 1:  # the end of the text
        ids.append(int(model(torch.tensor([[ids, [1] * len(ids)]]))[0, -1].argmax()))
    written = bytes(i - 3 for i in ids[7:] if i >= 3).decode(errors="ignore")
    assert lines(capsys) == [{"text": "the goo", "continuation": written}] and written
