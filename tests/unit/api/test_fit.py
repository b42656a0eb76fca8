"""`fedrac.fit`: the command's bits, from objects, with nothing left behind but what was asked for."""

import gc
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import twins
from runs import equal
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import fedrac
from fedrac.api import live
from fedrac.experiment.settings import ConfigError
from fedrac.flower import host, node
from fedrac.protocol.round_report import Divergence

PASSING = ["seconds", "download_bytes"]  # what depends on when and where it ran


def fit(*, clients: Any = None, test: Any = "held out", net: nn.Module | None = None, **changes: Any) -> fedrac.Run:
    arguments = {"overrides": twins.SHORT, "progress": False, "cohort_size": 3, "rank": 2, **changes}
    tested = twins.held_out() if isinstance(test, str) else test
    return fedrac.fit(net or twins.net(), twins.clients() if clients is None else clients, tested, **arguments)


def same(run: fedrac.Run, other: fedrac.Run) -> None:
    """The same history and the same weights, bit for bit."""
    pd.testing.assert_frame_equal(run.history.drop(columns=PASSING), other.history.drop(columns=PASSING))
    equal(twins.weights(run.model), twins.weights(other.model))


@pytest.mark.parametrize("overrides", [(), ("method=fedavg_lora", "runtime.dtype=float64", "adapt.full=['*.bias']")])
def test_the_same_bits_as_the_command(tmp_path: Path, overrides: Sequence[str]) -> None:
    command = fedrac.run(
        *twins.COMMAND, *twins.SHORT, *overrides, "pretrain=none", "cohort.size=3", "rank=2", "seed=5",
        f"output_dir={tmp_path / 'run'}", progress=False,
    )  # fmt: skip
    live_one = fit(seed=5, overrides=[*twins.SHORT, *overrides])
    same(live_one, command)
    assert live_one.history["train/loss"].nunique() == 3
    assert {k: v for k, v in live_one.summary.items() if k not in PASSING} == {
        k: v for k, v in command.summary.items() if k not in PASSING
    }


def test_with_a_folder_it_leaves_what_every_run_leaves(tmp_path: Path) -> None:
    kept, unwritten = fit(output_dir=tmp_path / "run"), fit()
    files = {"config.yaml", "task.json", "versions.json", "metrics.jsonl", "summary.json", "status.json", "clients.npz"}
    assert {path.name for path in (tmp_path / "run").iterdir()} >= files | {"checkpoint", "best"}
    same(kept, unwritten)
    assert kept.folder == tmp_path / "run" and unwritten.folder is None
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == kept.summary
    with pytest.raises(FileExistsError, match="holds the results of another run"):
        fit(output_dir=tmp_path / "run")


def test_nothing_is_written_unless_asked(tmp_path: Path) -> None:
    """A process that would be told of every file opened for writing, and every folder made, is told of none."""
    program = """
        import os, sys
        import fedrac, twins
        fedrac.fit, twins.net()
        from fedrac.protocol import code_digest
        def hook(event, arguments):
            if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                sys.stderr.write(f"writes {arguments[0]}\\n")
            if event in ("os.mkdir", "os.rename"):
                sys.stderr.write(f"{event} {arguments[0]}\\n")
        sys.dont_write_bytecode = True
        sys.addaudithook(hook)
        run = fedrac.fit(twins.net(), twins.clients(), twins.held_out(), overrides=twins.SHORT, progress=False)
        run.history, run.model
        open("proof", "w")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "FEDRAC_CACHE": str(tmp_path / "cache"), "PYTHONPATH": _python_path()},
    )  # fmt: skip
    assert done.stderr.splitlines() == ["writes proof"]
    assert [path.name for path in tmp_path.iterdir()] == ["proof"]


def _python_path() -> str:
    return f"{Path(twins.__file__).parent}:{Path(fedrac.__file__).parents[1]}"


def test_the_model_given_is_not_changed() -> None:
    net = twins.net().train()
    run = fit(net=net)
    equal(twins.weights(net), twins.weights(twins.net()))
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not run.model.training and type(run.model) is type(net)
    moved = [not torch.equal(value, net.state_dict()[name]) for name, value in run.model.state_dict().items()]
    assert any(moved)


def test_the_model_predicts_as_the_history_says() -> None:
    run, (inputs, labels) = fit(), twins.held_out()
    with torch.no_grad():
        right = (run.model(torch.from_numpy(inputs)).argmax(dim=1).numpy() == labels).mean()
    assert right == pytest.approx(run.history["test/accuracy"].iloc[-1])
    assert run.summary["last"]["test/accuracy"] == pytest.approx(right)


def test_round_0_is_the_model_given() -> None:
    run, (inputs, labels) = fit(), twins.held_out()
    first = run.history.iloc[0]
    with torch.no_grad():
        outputs = twins.net()(torch.from_numpy(inputs))
    assert run.history["round"].tolist() == [0, 1, 2, 3]
    assert first["test/loss"] == pytest.approx(nn.functional.cross_entropy(outputs, torch.tensor(labels)).item())
    assert (first["upload_bytes"], first["cohort"]) == (0, [])
    assert np.isnan(first["train/loss"]) and run.history["test/loss"].notna().tolist() == [True, False, True, True]


def _pairs(x: Any, y: Any) -> Dataset[Any]:
    class Pairs(Dataset[Any]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, i: int) -> Any:
            return x[i], int(y[i])

    return Pairs()


def _frame(x: Any, y: Any) -> pd.DataFrame:
    return pd.DataFrame(x, columns=list("abcdef")).assign(label=y)


FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "tensors": lambda x, y: (torch.from_numpy(x), torch.from_numpy(y)),
    "lists": lambda x, y: [x.tolist(), y.tolist()],
    "narrow labels": lambda x, y: (x.astype(np.float64), y.astype(np.uint8)[:, None]),
    "data set": _pairs,
    "tensor data set": lambda x, y: TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
    "frame": _frame,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_the_data(form: Callable[[Any, Any], Any]) -> None:
    given = [form(x, y) for x, y in twins.clients()]
    same(fit(clients=given, test=form(*twins.held_out())), fit())


def test_the_target_of_a_frame_can_be_named() -> None:
    frames = [_frame(x, y)[["label", *"abcdef"]] for x, y in twins.clients()]
    same(fit(clients=frames, test=_frame(*twins.held_out()), target="label"), fit())


def test_a_task_and_a_loss_of_one_s_own() -> None:
    """Yes or no as floats is several labels at a time; and the cross-entropy, doubled, has twice its gradient."""
    yes = [(x, np.stack([y == 0, y == 1, x[:, 0] > 0], axis=1).astype(float)) for x, y in twins.clients()]
    with pytest.raises(ValueError, match="all 0 or 1: say what they mean"):
        fit(clients=yes, test=None)
    assert "clients/loss" in fit(clients=yes, test=None, task="multi_label").history

    def twice(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 2 * nn.functional.cross_entropy(outputs, targets, reduction="none")

    sgd = ["rounds=2", "local=sgd", "evaluate.every=1"]
    own, plain = fit(loss=twice, overrides=[*sgd, "local.lr=0.05"]), fit(overrides=[*sgd, "local.lr=0.1"])
    assert own.history["test/loss"].tolist() == pytest.approx([2 * v for v in plain.history["test/loss"]], rel=1e-4)
    assert own.summary["last"]["test/accuracy"] == plain.summary["last"]["test/accuracy"]


def test_a_regression_on_several_columns() -> None:
    frames = [_frame(x, y).drop(columns="label") for x, y in twins.clients()]
    net = nn.Linear(4, 2)
    by_columns = fit(net=net, clients=frames, test=frames[0], target=["e", "f"])
    pairs = [(frame[list("abcd")].to_numpy(), frame[["e", "f"]].to_numpy()) for frame in frames]
    same(by_columns, fit(net=net, clients=pairs, test=pairs[0]))
    assert "test/mse" in by_columns.history


def test_client_i_is_the_ith_one() -> None:
    """A cohort of all: the first client's examples decide what it sends, wherever the others stand."""
    counts = [len(x) for x, _ in twins.clients()]
    run = fit(cohort_size=None, overrides=["rounds=1", "server.weighting=examples"])
    assert run.history["cohort"].iloc[-1] == list(range(len(counts)))
    one_of = [fit(clients=[c], cohort_size=1, overrides=["rounds=1", "local.lr=1e-2"]) for c in twins.clients()[:2]]
    assert one_of[0].history["train/loss"].iloc[1] != one_of[1].history["train/loss"].iloc[1]


def test_clients_in_another_order_are_other_clients(tmp_path: Path) -> None:
    run = fit(output_dir=tmp_path / "a", clients=twins.clients()[::-1])
    counts = np.load(tmp_path / "a" / "clients.npz")["labels"]
    expected = [np.bincount(y, minlength=3).tolist() for _, y in twins.clients()[::-1]]
    assert counts.tolist() == expected
    with pytest.raises(AssertionError):
        same(run, fit())


def test_fits_with_other_data_do_not_mix() -> None:
    first = fit()
    shifted = [(x + 1, y) for x, y in twins.clients()]
    assert fit(clients=shifted).summary["last"] != first.summary["last"]
    same(fit(), first)


def test_memory_is_freed() -> None:
    run = fit()
    gc.collect()
    assert not live._held and not node._loaded.cache_info().currsize
    assert not [found for found in gc.get_objects() if type(found) is host.Host]
    assert run.model is run.model


def test_memory_is_freed_where_the_fit_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "train_cohort", stop)
    with pytest.raises(KeyboardInterrupt):
        fit()
    assert not live._held and not node._loaded.cache_info().currsize


def test_a_stopped_fit_leaves_its_rounds_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, folder = host.train_cohort, tmp_path / "run"

    def stop(*arguments: Any) -> Any:
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return train(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(host, "train_cohort", stop)
        fit(output_dir=folder)
    assert fedrac.load(folder).history["round"].tolist() == [0, 1, 2]
    net, clients, test = twins.net(), twins.clients(), twins.held_out()
    same(fedrac.fit(net, clients, test, overrides=[f"resume={folder}"], progress=False), fit())
    with pytest.raises(ConfigError, match="output_dir=elsewhere: a resumed run goes on in its own folder"):
        fedrac.fit(net, clients, test, overrides=[f"resume={folder}"], output_dir="elsewhere")


def test_a_command_s_run_is_not_gone_on_with(tmp_path: Path) -> None:
    fedrac.run(
        *twins.COMMAND, *twins.SHORT, "cohort.size=2", "pretrain=none", f"output_dir={tmp_path}/a", progress=False
    )
    with pytest.raises(ConfigError, match=r"fedrac\.fit did not make that run"):
        fedrac.fit(twins.net(), twins.clients(), overrides=[f"resume={tmp_path}/a"])


def test_without_a_test_part_the_clients_test() -> None:
    run = fit(test=None)
    assert {"clients/loss", "clients/accuracy"} <= set(run.history) and not run.summary["initial"]
    held_out = fit(test=None, overrides=[*twins.SHORT, "evaluate.validation=0.2"], clients=[twins.pair(20, 1)] * 3)
    assert "test/accuracy" in held_out.history and "clients/loss" not in held_out.history


def test_the_objective_without_a_test_part() -> None:
    run = fit(test=None, overrides=[*twins.SHORT, "evaluate.objective=true", "checkpoint.best=null"])
    means = []
    for x, y in twins.clients():
        with torch.no_grad():
            means.append(nn.functional.cross_entropy(twins.net()(torch.from_numpy(x)), torch.tensor(y)).item())
    assert run.history["train/objective"].iloc[0] == pytest.approx(np.mean(means))


def test_a_held_out_part_takes_no_client_away() -> None:
    """Else those after it would move up, and client i would not be clients[i]."""
    clients = [twins.pair(1, seed) for seed in range(10)]
    with pytest.raises(ValueError, match=r"evaluate\.validation=0\.5 leaves clients\[\d\] no examples"):
        fit(clients=clients, test=None, overrides=["evaluate.validation=0.5"])
    with pytest.raises(ValueError, match=r"evaluate\.validation=0\.01 holds out none of 10 examples"):
        fit(clients=clients, test=None, overrides=["evaluate.validation=0.01"])


def test_the_cohort_is_all_clients_where_they_are_few() -> None:
    assert fit(cohort_size=None).config["cohort"]["size"] == len(twins.SIZES)
    many = [twins.pair(2, seed) for seed in range(12)]
    assert fit(cohort_size=None, clients=many).config["cohort"]["size"] == 10
    for asked in ({"cohort_size": 6}, {"cohort_size": None, "overrides": ["cohort.size=6"]}):
        with pytest.raises(ValueError, match=r"cohort\.size=6 is larger than the population of 5 clients"):
            fit(**asked)


def test_overrides_come_last() -> None:
    config = fit(rounds=7, method="fedavg", overrides=["rounds=1", "method=flora", "local.lr=0.5"]).config
    assert (config["rounds"], config["method"]["name"], config["local"]["lr"]) == (1, "FLoRA", 0.5)


WRONG_SETTINGS = {
    "key": (["local.learning_rate=1"], "there is no key 'local.learning_rate'"),
    "value": (["rounds=0"], "rounds=0 must be"),
    "option": (["method=fedproximal"], "method"),
    "data": (["data=digits"], r"data=digits: fedrac\.fit takes model, data, task, loss and output_dir"),
    "model": (["++model.outputs=3"], r"model\.outputs=3: fedrac\.fit takes"),
    "pre-training": (["pretrain.enabled=true"], "as arguments"),
    "folder": (["output_dir=out"], "as arguments"),
}


@pytest.mark.parametrize("overrides, message", WRONG_SETTINGS.values(), ids=WRONG_SETTINGS)
def test_wrong_settings_are_the_command_s_errors(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(overrides=overrides)


def test_a_tracker_needs_a_folder() -> None:
    pytest.importorskip("tensorboard")
    with pytest.raises(ValueError, match="track=tensorboard: a run that is followed needs an output_dir"):
        fit(overrides=[*twins.SHORT, "track=tensorboard"])


def test_a_model_that_does_not_fit_the_data() -> None:
    with pytest.raises(ValueError, match="does not take an example of shape"):
        fit(net=nn.Linear(4, 3))
    with pytest.raises(ValueError, match="label 2 but the model has 2 outputs"):
        fit(net=nn.Linear(6, 2))
    with pytest.raises(ValueError, match="label 5 but the model has 3 outputs"):
        fit(test=(twins.held_out()[0], np.full(40, 5)))


def test_divergence_is_an_error(tmp_path: Path) -> None:
    settings = {"method": "fedavg", "overrides": ["local=sgd", "local.lr=1e30", "rounds=5"]}
    with pytest.raises(Divergence):
        fit(**settings)
    with pytest.raises(Divergence):
        fit(**settings, output_dir=tmp_path / "run")
    assert fedrac.load(tmp_path / "run").summary["diverged"]


def test_the_bar_shows_rounds_and_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    fit(progress=True)
    told = capsys.readouterr().err
    assert "Fed-RAC-LoRA: 100%" in told and "3/3" in told and "test accuracy" in told
    fit(progress=False)
    assert capsys.readouterr() == ("", "")
