"""The configuration says what is wrong, and what would be right, before any work is done."""

import re
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from fedrac.experiment import compose
from fedrac.experiment.compose import load, split_overrides, to_yaml
from fedrac.experiment.settings import ConfigError, parse


def wrong(*overrides: str) -> str:
    """The error that these overrides lead to."""
    with pytest.raises(ConfigError) as caught:
        parse(load(overrides))
    return str(caught.value)


@pytest.fixture(scope="module")
def defaults() -> DictConfig:
    return load([])


def options(group: str) -> list[str]:
    return [path.stem for path in sorted((compose.config_dir() / group).glob("*.yaml"))]


def test_the_defaults_are_an_experiment() -> None:
    found = parse(load([]))
    assert (found.method.name, found.cohort.size, found.seed) == ("Fed-RAC-LoRA", found.server.cohort_size, 1)
    assert found.server.min_fraction == found.cohort.min_fraction


def test_every_option_of_every_group_is_valid() -> None:
    groups = ("partition", "model", "method", "local", "pretrain", "data")
    for chosen in zip_longest(*map(options, groups)):
        given = [f"{group}={option}" for group, option in zip(groups, chosen, strict=True) if option is not None]
        names = {"partition": "scheme"}  # what names the function of a group's option custom
        own = [o.removesuffix("=custom") for o in given if o.endswith("=custom")]
        kinds = {"method": "own_methods.Own"}  # a method's class is imported when settings are read
        parse(
            load(given + [f"{group}.{names.get(group, '_target_')}={kinds.get(group, 'my.function')}" for group in own])
        )
    for experiment in options("experiment"):
        parse(load([f"experiment={experiment}"]))


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("cohort.sise=3", "cohort.size"),
        ("cohrt.size=3", "cohort.size"),
        ("metod=flora", "method"),
        ("server.schedule.shap=linear", "server.schedule.shape"),
        ("local={lrr: 0.5}", "local.lr"),
        ("+cohort.siz=1", "cohort.size"),
        ("++evaluate.evry=1", "evaluate.every"),
    ],
)
def test_a_misspelt_key(override: str, near: str) -> None:
    message = wrong(override)
    assert "there is no key" in message and near in message and "did you mean" in message


def test_a_misspelt_key_among_others() -> None:
    """Keys of the options that were chosen are known."""
    chosen = ("data=linear_regression", "data.examples=40", "partition=size", "partition.law=square")
    assert "there is no key 'cohort.sise'; did you mean cohort.size" in wrong(*chosen, "cohort.sise=3")
    misspelt = wrong(*chosen, "data.exampels=3")
    assert "there is no key 'data.exampels'; did you mean data.examples" in misspelt
    assert misspelt.endswith("begins with a plus: +data.exampels=3")
    assert "there is no key 'data.examples'" in wrong("data.examples=40")


def test_a_key_like_no_other() -> None:
    assert wrong("qqqq=1") == "there is no key 'qqqq'; see fedrac --help"
    assert "there is no key 'qqqq'; the keys are adapt, basis, checkpoint, cohort, data," in wrong("+qqqq=1")
    assert "qqqq" in wrong("qqqq={a: 1}")


@pytest.mark.parametrize("group", ["data", "method", "local", "experiment"])
def test_an_unknown_option_of_a_group(group: str) -> None:
    message = wrong(f"{group}=nothing")
    assert f"Could not find '{group}/nothing'" in message
    assert set(options(group)) <= set(message.split())
    assert "Config search path" not in message


@pytest.mark.parametrize("text", ["rounds", "rounds=1,2", "rounds=3=4", "a b", "cohort.size=[1", "data=null", "=3"])
def test_unreadable_overrides(text: str) -> None:
    assert wrong(text)


TYPES = {
    "rounds": ["x", "0", "-1", "1.5", "true", "null", "[1]"],
    "seed": ["-1", "1.0", "x", "true", "null"],
    "cohort.size": ["x", "0", "1.5", "null"],
    "cohort.min_fraction": ["0", "1.1", "x", "nan"],
    "cohort.timeout": ["0", "-1", "nan", "x"],
    "adapt.alpha": ["0", "-1", "x", "nan"],
    "adapt.layers": ["3", "a"],
    "adapt.full": ["3"],
    "local.lr": ["0", "-1", "nan", "x", "null"],
    "local.epochs": ["0", "1.5", "x"],
    "local.batch_size": ["0", "x"],
    "local.optimizer": ["adam", "1"],
    "local.sampling": ["all"],
    "local.momentum": ["1", "-0.1"],
    "local.betas": ["0.9", "[0.9]", "[a,b]"],
    "local.clip": ["0", "x"],
    "local.schedule.shape": ["round"],
    "local.schedule.warmup": ["-1", "x"],
    "server.eta": ["0", "nan", "x"],
    "server.weighting": ["sum"],
    "server.schedule.final": ["2"],
    "sketch.law": ["normal"],
    "sketch.send": ["post"],
    "method.train": ["all"],
    "method.side": ["top"],
    "evaluate.every": ["0", "x", "1.5"],
    "evaluate.batch_size": ["0", "-1", "x"],
    "evaluate.on_clients": ["x"],
    "pretrain.epochs": ["0", "x"],
    "pretrain.lr": ["0"],
    "runtime.hosts": ["0", "x"],
    "runtime.dtype": ["float16", "double"],
    "runtime.threads": ["0", "x"],
}


@pytest.mark.parametrize("key", TYPES)
def test_values_of_the_wrong_type_or_out_of_range(key: str, defaults: DictConfig) -> None:
    """The message names the key or its last part."""
    for value in TYPES[key]:
        settings = defaults.copy()
        OmegaConf.update(settings, key, OmegaConf.create(f"value: {value}").value)
        with pytest.raises(ConfigError, match=re.escape(key) + "|" + key.rpartition(".")[2]):
            parse(settings)


@pytest.mark.parametrize("rank", ["0", "-2", "1.5", "x"])
def test_ranks(rank: str) -> None:
    message = wrong(f"rank={rank}")
    assert rank in message and ("rank" in message or "adapt.layers" in message)


def test_choices_that_contradict_one_another() -> None:
    assert "set method.average=factors" in wrong("method.average=products")
    assert "needs method.merge=true" in wrong("method=asymm_lora", "method.fresh=true")
    assert "set local.optimizer=sgd, or local=theory" in wrong("local=adamw", "local.precondition=true")


@pytest.mark.parametrize("name", ["data", "model"])
def test_a_group_without_an_option(name: str) -> None:
    assert f"{name} has no _target_: choose an option of the group, {name}=NAME" in wrong(f"~{name}")


@pytest.mark.parametrize("name", ["cohort", "local", "server"])
def test_a_section_that_is_gone(name: str) -> None:
    assert f"{name}=None must be a group of keys" in wrong(f"~{name}")


def test_a_mapping_extends_what_is_there() -> None:
    found = parse(load(["adapt.layers={head: full, layers.1: 3}", "local.schedule={shape: cosine}", "rank=4"]))
    assert found.adapt.layers == {"*": 4, "head": "full", "layers.1": 3}
    assert list(found.adapt.layers) == ["*", "head", "layers.1"]  # the last that matches counts
    assert (found.local_schedule.shape, found.local_schedule.decay) == ("cosine", 0.1)


def test_pretraining_on_other_data_extends_the_data() -> None:
    found = parse(load(["pretrain.data={test_fraction: 0.5}"]))
    assert found.pretrain.data == {"classes": [0, 1, 2, 3, 4], "test_fraction": 0.5}


def test_overrides_as_a_shell_would_split_them() -> None:
    assert split_overrides("a=1  'b={c: 2}' d=\"e f\"") == ["a=1", "b={c: 2}", "d=e f"]


def test_runs_from_before_there_was_secure_aggregation_have_none(defaults: DictConfig) -> None:
    old = DictConfig({name: value for name, value in defaults.items() if name != "secure_aggregation"})
    assert parse(old) == parse(defaults) and not parse(old).secure.enabled
    assert parse(load(["secure_aggregation=on"])).secure.enabled
    assert "secure_aggregation.bits=40" in wrong("secure_aggregation=on", "secure_aggregation.bits=40")


def test_paths_are_those_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(load(["data=table", "data.path=my.csv"])).data["path"] == str(tmp_path / "my.csv")


def test_what_hosts_are_told() -> None:
    workload = parse(load(["runtime.dtype=float64"])).workload()
    assert set(workload) == {"data", "partition", "model", "seed", "dtype", "device"}
    assert workload["dtype"] == "float64"


# --- a resumed run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    given = ["rounds=7", "method=flora", "local=sgd", "data=linear_regression"]
    (folder / "config.yaml").write_text(to_yaml(load([*given, "adapt.layers={a: 2}"])))
    return folder


def test_what_is_saved_is_the_same_experiment() -> None:
    settings = load(["rounds=7", "method=flora", "adapt.layers={a: 2}", "local.lr=1e-3"])
    again = OmegaConf.create(to_yaml(settings))
    first, second = parse(settings), parse(again)  # type: ignore[arg-type]
    assert all(getattr(first, f.name) == getattr(second, f.name) for f in fields(first))


def test_a_resumed_run_has_the_saved_configuration(saved: Path) -> None:
    found = load([f"resume={saved}", "rounds=9", "cohort.size=4", "local.schedule={shape: linear}"])
    assert found.output_dir == found.resume == str(saved)
    experiment = parse(found)
    assert (experiment.rounds, experiment.cohort.size, experiment.method.name) == (9, 4, "FLoRA")
    assert experiment.local.optimizer == "sgd" and experiment.local_schedule.shape == "linear"
    assert experiment.adapt.layers == {"*": 1, "a": 2}


@pytest.mark.parametrize(
    "key", ["seed", "rank", "method.side", "method", "model.outputs", "adapt.alpha", "sketch.law", "server.average"]
)
def test_what_a_resumed_run_keeps(saved: Path, key: str) -> None:
    assert "a resumed run keeps its" in wrong(f"resume={saved}", f"{key}=3")


def test_faults_of_a_resumed_run(saved: Path) -> None:
    assert "a resumed run keeps its local" in wrong(f"resume={saved}", "local=adamw")
    assert "did you mean cohort.size" in wrong(f"resume={saved}", "data.noise=1", "cohort.sise=3")
    assert "rounds='x'" in wrong(f"resume={saved}", "rounds=x")
    nowhere = saved / "nowhere"
    assert f"there is no {nowhere / 'config.yaml'}" in wrong(f"resume={nowhere}")


def test_other_rounds_than_a_schedule_was_for_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for shape, rounds, said in (("cosine", 9, True), ("cosine", 5, False), ("inverse", 9, False)):
        caplog.clear()
        settings = compose.load(["rounds=5", f"local.schedule.shape={shape}"])
        (tmp_path / "config.yaml").write_text(compose.to_yaml(settings))
        compose.load([f"resume={tmp_path}", f"rounds={rounds}"])
        assert ("local.schedule (cosine) of a run of 5 rounds" in caplog.text) == said


def test_nothing_to_resume() -> None:
    assert parse(load(["resume=null"])).rounds == parse(load([])).rounds


def test_loading_leaves_nothing_behind() -> None:
    """Two configurations in one process do not know of one another."""
    first: Any = load(["cohort.size=3"])
    assert load([]).cohort.size != first.cohort.size == 3


def test_an_experiment_has_rates_of_each_methods_own() -> None:
    """As far as it has such; what a user says counts more."""
    given = ["experiment=mnist", "data.path=/data"]
    found = {name: parse(load([*given, f"method={name}"])) for name in ("two_sided", "fed_rac_lora", "fedavg", "flora")}
    assert found["fedavg"].rounds < found["fed_rac_lora"].rounds == found["flora"].rounds  # of the experiment
    assert len({found[name].local.lr for name in ("two_sided", "fed_rac_lora", "fedavg")}) == 3
    assert found["flora"].local.lr == parse(load([])).local.lr  # it has none of its own
    assert found["two_sided"].adapt.basis == "inputs" and found["fedavg"].adapt.basis is None
    assert all(each.local_schedule.shape == "cosine" for each in found.values())
    told = parse(load([*given, "method=two_sided", "rounds=7", "local.lr=0.5", "upload.bits=4", "local.batch_size=5"]))
    assert (told.rounds, told.local.lr, told.local.batch_size, told.bits.upload) == (7, 0.5, 5, 4)
