"""Ranks that go down in whole runs: what is sent, what a resumed run has, and rules that return what they must not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from command import TINY
from runs import equal, strategy

import fedrac
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.hetlora import HetLoRA
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.simulated_time import SystemSpec
from fedrac.flower.strategy import FedRacLora
from fedrac.results import checkpoint
from fedrac.training.optimizer import LocalSpec

ROW = 4 + 5 + 5 + 3  # numbers of a rank in both layers
HETLORA = HetLoRA(ranks=(), penalty=0.3, decay=0.5)


def pruning(**changes: Any) -> FedRacLora:
    given: dict[str, Any] = {
        "method": HETLORA,
        "adapt": AdaptSpec({"*": 3}),
        "server": ServerSpec(runs.CLIENTS),
        "local": LocalSpec("sgd", 0.05, batch_size=4, epochs=3),
    }
    return strategy(**{**given, **changes})


def test_who_has_pruned_sends_less() -> None:
    """From the next round on, to the byte; and a round's simulated time knows it."""
    found = pruning(server=ServerSpec(runs.CLIENTS, system=SystemSpec(upload=1.0)))
    ranks, now = [dict.fromkeys(range(runs.CLIENTS), 3)], {}

    def after(report: Any) -> None:
        assert found.state is not None
        ranks.append({client: found.state.ranks.get(client, 3) for client in range(runs.CLIENTS)})

    reports: list[Any] = []
    runs.train(found, 2, rounds=6, on_round=lambda report: (reports.append(report), after(report)))
    for report, now in zip(reports, ranks, strict=False):
        assert report.upload_bytes == 8 * ROW * sum(now.values())
        assert report.simulated_seconds == 8 * ROW * max(now.values())
    assert len(set(map(str, ranks))) > 2 and min(ranks[-1].values()) == 1


def test_hosts_do_not_change_the_run() -> None:
    one, many = pruning(), pruning()
    runs.train(one, 1, rounds=5), runs.train(many, 4, rounds=5)
    assert one.state is not None and many.state is not None and one.state.ranks == many.state.ranks != {}
    equal(many.effective_weights(), one.effective_weights(), 1e-12)


@pytest.mark.parametrize("logged", [True, False])
def test_a_run_goes_on_with_every_clients_rank(logged: bool, tmp_path: Path) -> None:
    """Whether its last rounds are in the log, or its state was written whole."""
    whole, first, second = pruning(), pruning(), pruning()
    reports = runs.train(whole, 2, rounds=6)

    def keep(report: Any) -> None:
        assert first.state is not None and first.last_round is not None
        if report.round == 1 or not logged:
            checkpoint.save(tmp_path, first.state, first.effective_weights())
        else:
            checkpoint.append(tmp_path, first.replay, [first.last_round])

    runs.train(first, 2, rounds=4, on_round=keep)
    assert first.state is not None
    state = checkpoint.load(tmp_path)
    assert state.ranks == first.state.ranks != {}
    rest = runs.train(second, 2, rounds=6, state=state)
    equal(second.effective_weights(), whole.effective_weights())
    assert [r.upload_bytes for r in rest] == [r.upload_bytes for r in reports[4:]]


def test_from_the_command(tmp_path: Path) -> None:
    pruned = ["method=hetlora", "method.ranks=[]", "method.penalty=0.1", "method.decay=0.5", "rank=4"]
    command = [*TINY, *pruned, "local.optimizer=sgd", "local.lr=0.05"]
    whole = fedrac.run(*command, "rounds=6", f"output_dir={tmp_path / 'whole'}", progress=False)
    fedrac.run(*command, "rounds=3", f"output_dir={tmp_path / 'part'}", progress=False)
    resumed = fedrac.run(f"resume={tmp_path / 'part'}", "rounds=6", progress=False)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value)
    sizes = whole.history["upload_bytes"]
    assert sizes.tolist() == resumed.history["upload_bytes"].tolist() and 0 < sizes.iloc[-1] < sizes.iloc[1]


@dataclass(frozen=True)
class Rule(Method):
    """Returns what a test gives it."""

    after: Any = None
    gradient: str = "none"

    def ranks_after(self, ranks: Any, start: Any, found: Any) -> Any:
        return ranks if self.after is None else self.after

    def local_gradient(self, factors: Any, ranks: Any) -> Any:
        kinds = {"none": {}, "other": {"B": torch.zeros(1)}, "short": {"A": torch.zeros(2)}, "number": 3.0}
        return kinds[self.gradient] if "A" in factors else {}


@pytest.mark.parametrize("after", [[2], [1, 1, 1, 3], [1, 1, 1, 0], [1, 1, 1, 1.0], 2])
def test_a_rule_that_returns_no_lower_ranks(after: Any) -> None:
    with pytest.raises(ValueError, match=r"Rule.ranks_after returned .*, expected a whole number from 1"):
        runs.train(strategy(method=Rule(ranks=(2,), after=after)))


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        ("other", r"returned \['B'\] for layers.0.weight, expected a dict of some of \['A'\]"),
        ("short", r"returned \(2,\) for A of layers.0.weight, expected \(\d, 2, 4\)"),
        ("number", r"returned a float, expected a dict of some of \['A'\]"),
    ],
)
def test_a_rule_that_returns_no_gradient(gradient: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        runs.train(strategy(method=Rule(gradient=gradient)))
