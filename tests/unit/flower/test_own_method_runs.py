"""Methods of one's own in whole runs: the command, Python, a node's limits; `runs.methods` has one for all else."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import runs
import torch
import twins
from command import TINY
from own_methods import Own, Returns

import fedrac
from fedrac.aggregation.guard import GuardSpec
from fedrac.algorithm.method import Method
from fedrac.experiment import compose
from fedrac.experiment.settings import ConfigError, parse
from fedrac.loading import limits
from fedrac.protocol import method_settings
from fedrac.protocol.policy import STRICT, Policy

OWN = [*TINY, "method=custom", "method._target_=own_methods.Own", "+method.inertia=0.25"]


def test_the_command_goes_on_where_it_was_stopped(tmp_path: Any) -> None:
    """The log of its rounds is replayed by the own step, and settings come from the saved configuration."""
    whole = fedrac.run(*OWN, "rounds=4", f"output_dir={tmp_path / 'whole'}", progress=False)
    fedrac.run(*OWN, "rounds=3", f"output_dir={tmp_path / 'part'}", "checkpoint.keep=3", progress=False)
    resumed = fedrac.run(f"resume={tmp_path / 'part'}", "rounds=4", progress=False)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
    assert fedrac.load(tmp_path / "whole").summary["method"] == "own_methods.Own"


def test_python_takes_a_method_as_an_object() -> None:
    found = fedrac.fit(twins.net(), twins.clients(), method=Own(inertia=0.0), rounds=3, progress=False)
    again = fedrac.fit(
        twins.net(), twins.clients(), rounds=3, progress=False, method="custom",
        overrides=["method._target_=own_methods.Own", "+method.inertia=0.0"],
    )  # fmt: skip
    for name, value in found.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    with pytest.raises(ConfigError, match=re.escape("method.prox=1: fedrac.fit was given the method as an object")):
        fedrac.fit(twins.net(), twins.clients(), method=Own(), overrides=["method.prox=1"])


@pytest.mark.parametrize(
    ("of", "what", "message"),
    [
        ("mean", {"A": torch.zeros(1)}, "own_methods.Returns.mean returned torch.float32"),
        ("step", (0.0, {}), "own_methods.Returns.step returned a float, expected a tensor for layers.0.weight"),
        ("at", None, "own_methods.Returns.at(2) returned a NoneType"),
    ],
)
def test_a_run_says_which_function_returned_what(of: str, what: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        runs.train(runs.strategy(method=Returns(what=what, of=of)))


def test_what_settings_may_name() -> None:
    named = {"_target_": "own_methods.Own", "inertia": 0.25}
    assert method_settings.read(named) == Own(inertia=0.25)
    assert method_settings.read(method_settings.written(Own(prox=0.5))) == Own(prox=0.5)
    with limits.within(STRICT.policy.limits()), pytest.raises(limits.Refused, match=r"own_methods.Own.*by methods"):
        method_settings.read(named)
    with limits.within(Policy(methods=("own_methods.Own",)).limits()):
        assert method_settings.read(named) == Own(inertia=0.25)
        assert method_settings.read({"prox": 0.5}) == Method(prox=0.5)  # it is what a policy's other lines are about


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "method._target_ is not set: give the import path of a class of your own"),
        (["method._target_=own_methods.nothing"], "method._target_=own_methods.nothing cannot be used"),
        (["method._target_=math.sqrt"], "must be a class that derives from fedrac.algorithm.method.Method"),
        ([*OWN[-2:-1], "+method.inertial=1"], "there is no key method.inertial; did you mean method.inertia"),
        ([*OWN[-2:-1], "+method.inertia=much"], "method.inertia='much'"),
    ],
)
def test_what_is_wrong_is_said_before_the_run(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(compose.load([*TINY, "method=custom", *changes]))


def test_a_mean_of_ones_own_takes_no_other() -> None:
    with pytest.raises(ValueError, match=r"Own has a mean of its own; set guard.mean=mean"):
        runs.strategy(method=Own(), guard=GuardSpec(clip=1.0))


SEEN: list[Any] = []


@dataclass(frozen=True)
class Watching(Method):
    """Keeps what its mean is given."""

    def mean(self, factors: Any, cohort: Any) -> Any:
        SEEN.append(cohort)
        return super().mean(factors, cohort)


def test_a_mean_knows_whose_factors_it_is_given() -> None:
    (report,) = runs.train(runs.strategy(method=Watching()), 2, rounds=1)
    assert all(list(each.clients) == list(report.cohort) for each in SEEN)
    assert np.mean(SEEN[0].losses) == pytest.approx(report.train_loss) and SEEN[0].shares.sum() == pytest.approx(1)


def test_a_class_inside_a_function_has_no_import_path() -> None:
    @dataclass(frozen=True)
    class Inner(Method):
        pass

    with pytest.raises(ValueError, match=r"Inner is defined inside a function: move it to the top of a module"):
        runs.train(runs.strategy(method=Inner()))
