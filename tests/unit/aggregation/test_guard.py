"""Clipping, robust means and noise in whole runs: exact where nothing is to be done, bounded where something is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    SampledWithoutReplacementDpEvent,
    rdp,
)
from federation import step
from flwr.app import Message
from runs import equal, methods, strategy
from torch import Tensor

from fedrac.aggregation import privacy
from fedrac.aggregation.guard import GuardSpec, begin, guard
from fedrac.aggregation.update_vectors import UpdateVectors
from fedrac.algorithm.controlled import Controlled
from fedrac.algorithm.merge import effective_weights
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.server import ServerSpec, shares
from fedrac.algorithm.state import GuardState, ServerState, Spent
from fedrac.flower.strategy import FedRacLora
from fedrac.results import checkpoint

FACTORS = [
    name
    for name, method in methods().items()
    if method.average == "factors"
    and not (method.has_ranks or method.has_own("mean") or isinstance(method, Controlled))
]
every_method = pytest.mark.parametrize("name", FACTORS)


def after_a_round(name: str, **changes: Any) -> FedRacLora:
    """A strategy whose state has been somewhere: carried factors are not where they began."""
    found = strategy(method=methods()[name], **changes)
    runs.train(found, rounds=1)
    return found


def updates(of: FedRacLora, clients: int = 4) -> tuple[UpdateVectors, dict[str, Tensor], dict[str, Tensor]]:
    """The space of the next round, its sketches, and factors of some clients."""
    assert of.state is not None
    sketches = draw_sketches(of.blocks, of.method, of.sketch, 2).values
    g = torch.Generator().manual_seed(0)
    stacked = {
        k: torch.randn(clients, *shape, generator=g, dtype=torch.float64) for k, shape in of.shapes_at(2).items()
    }
    return UpdateVectors(of.blocks, of.method.at(2), sketches, of.state.factors), dict(sketches), stacked


@every_method
def test_a_vector_is_as_long_as_the_step_that_it_makes(name: str) -> None:
    """In the weights, if one factor is trained; else in the factors."""
    found = after_a_round(name)
    space, sketches, stacked = updates(found, 1)
    assert found.state is not None
    plain = replace(found.method, optimizer=None).at(2)  # what clients found, whatever the server makes of it
    after = step(found.state, found.blocks, plain, sketches, stacked, shares([1], "uniform"), 1.0)
    length = space.rows(stacked).norm()
    if found.method.train == "both":
        start = {k: space.factors(torch.zeros(space.rows(stacked).shape[1], dtype=torch.float64))[k] for k in stacked}
        expected = torch.cat([(stacked[k][0] - start[k]).flatten() for k in stacked]).norm()
    else:
        before, now = found.effective_weights(), _effective(found, after, sketches)
        expected = torch.cat([(now[k] - before[k]).flatten() for k in now]).norm()
    assert float(length) == pytest.approx(float(expected), rel=1e-10)


def _effective(of: FedRacLora, state: ServerState, sketches: dict[str, Tensor]) -> dict[str, Tensor]:
    return effective_weights(state, of.blocks, sketches)


@every_method
def test_factors_come_back_from_vectors(name: str) -> None:
    space, _, stacked = updates(after_a_round(name), 3)
    for place, row in enumerate(space.rows(stacked)):
        equal(dict(sorted(space.factors(row).items())), {k: v[place] for k, v in sorted(stacked.items())}, 1e-10)


def test_a_sketch_that_lost_rank_gives_the_same_weights() -> None:
    found = strategy(method=Method())
    block = found.blocks[0]
    sketch = torch.ones(block.m, 2, dtype=torch.float64)
    space = UpdateVectors([block], found.method.at(1), {block.name: sketch}, {})
    a = torch.randn(1, 2, block.n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    back = space.factors(space.rows({block.key("A"): a})[0])[block.key("A")]
    assert torch.allclose(sketch @ back, sketch @ a[0], atol=1e-12)
    assert float(space.rows({block.key("A"): a}).norm()) == pytest.approx(float((block.scale * sketch @ a[0]).norm()))


@every_method
def test_a_bound_that_nobody_reaches_changes_nothing(name: str) -> None:
    plain, guarded = strategy(method=methods()[name]), strategy(method=methods()[name], guard=GuardSpec(clip=1e9))
    runs.train(plain)
    reports = runs.train(guarded)
    equal(guarded.effective_weights(), plain.effective_weights(), 1e-11)
    assert [r.guard["guard/clipped"] for r in reports] == [0.0] * 3
    assert all(0 < r.guard["guard/length"] < 1e9 for r in reports)


def hostile(client: int, factor: float = -100.0) -> runs.TamperedGrid:
    """One client multiplies what it found."""

    def tamper(messages: list[Message]) -> list[Message]:
        for message in messages:
            clients = list(runs.clients_of(message))
            if client in clients:
                record = message.content.array_records["factors"]
                values = runs.arrays(record)
                for value in values.values():
                    value[clients.index(client)] *= factor
                message.content.array_records["factors"] = runs.to_record(values)
        return messages

    return runs.TamperedGrid(tamper, 3)


def moved(found: FedRacLora) -> float:
    """How far a run of one round moved the weights."""
    before = runs.arrays(runs.start(found.workload))
    return float(torch.cat([(v - before[k]).flatten() for k, v in found.effective_weights().items()]).norm())


@pytest.mark.parametrize("name", ["fed_rac_lora", "asymm_lora", "fedavg"])
@pytest.mark.parametrize("spec", [GuardSpec(clip=0.1), GuardSpec(mean="median"), GuardSpec(mean="geometric_median"),
                                  GuardSpec(mean="trimmed_mean"), GuardSpec(mean="krum")], ids=str)  # fmt: skip
def test_one_hostile_client(name: str, spec: GuardSpec) -> None:
    """It moves the plain mean far away, and a guarded one hardly."""
    server = ServerSpec(cohort_size=6)
    far, near, without = (strategy(method=methods()[name], server=server, guard=g) for g in (None, spec, None))
    far.start(hostile(2), runs.start(), 1)
    near.start(hostile(2), runs.start(), 1)
    runs.train(without, rounds=1)
    assert moved(far) > 10 * moved(without)
    assert moved(near) <= (0.1 if spec.clip else 2 * moved(without))


def test_the_bound_follows_the_quantile() -> None:
    """Andrew et al. (2021): the bound falls by exp(-0.2 (share within - quantile)) a round, and settles there."""
    found = strategy(server=ServerSpec(6), guard=GuardSpec(clip=0.001, clip_quantile=0.5))
    reports = runs.train(found, rounds=60)
    bounds = [r.guard["guard/clip"] for r in reports]
    assert bounds[0] == 0.001
    for report, after in zip(reports, bounds[1:], strict=False):
        share = 1 - report.guard["guard/clipped"]
        assert after == pytest.approx(report.guard["guard/clip"] * math.exp(-0.2 * (share - 0.5)), rel=1e-12)
    assert all(0.2 < r.guard["guard/clip"] / r.guard["guard/length"] < 5 for r in reports[-5:])


def test_noise_has_its_size_and_is_isotropic_in_the_weights() -> None:
    """On updates of zero, over many rounds."""
    spec = GuardSpec(clip=0.5, noise=2.0, noise_seed=3)
    found = strategy(guard=spec)
    found.state = ServerState(0, runs.arrays(runs.start()), {})
    space, _, stacked = updates(found)
    zero = {key: torch.zeros_like(value) for key, value in stacked.items()}
    weights = shares([1] * 4, "uniform")
    rows = []
    for round_ in range(1, 401):
        means = guard(spec, begin(spec, GuardState()), space, zero, weights, round_, 4, 6).means
        rows.append(space.rows({key: mean.unsqueeze(0) for key, mean in means.items()})[0])
    sample = torch.stack(rows)
    assert float(sample.std()) == pytest.approx(2.0 * 0.5 / 4, rel=0.03)
    assert float(sample.mean()) == pytest.approx(0.0, abs=0.01)
    normalised = sample.square().mean(0).sqrt() / (2.0 * 0.5 / 4)
    assert float(normalised.min()) > 0.8 and float(normalised.max()) < 1.2


def test_a_client_that_is_missing_is_an_update_of_zero() -> None:
    spec = GuardSpec(clip=0.5, noise=1.0, noise_seed=3)
    space, _, stacked = updates(after_a_round("fed_rac_lora"), 4)
    stacked = {key: value.index_fill(0, torch.tensor([3]), 0.0) for key, value in stacked.items()}
    three = {key: value[:3] for key, value in stacked.items()}
    found, expected = (
        guard(spec, GuardState(), space, some, shares([1] * len(some["layers.0.weight:A"]), "uniform"), 2, 4, 6).means
        for some in (three, stacked)
    )
    equal(dict(found), dict(expected), 1e-12)


def test_noise_and_cohorts_follow_from_the_secret_alone() -> None:
    def after(seed: int | None) -> tuple[dict[str, Tensor], list[Any]]:
        found = strategy(guard=GuardSpec(clip=1.0, noise=1.0, noise_seed=seed))
        cohorts = [list(r.cohort) for r in runs.train(found, rounds=5)]
        return found.effective_weights(), cohorts

    equal(after(1)[0], after(1)[0])
    assert after(1)[1] == after(1)[1] != after(2)[1]
    first, second = after(None), after(None)
    assert not torch.equal(first[0]["layers.0.weight"], second[0]["layers.0.weight"])


def test_clients_are_not_told_the_secret() -> None:
    found = strategy(guard=GuardSpec(clip=1.0, noise=1.0, noise_seed=123456789123))
    sent: list[str] = []

    class Listening(runs.InProcessGrid):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            known = list(messages)
            sent.extend(str(m.content.config_records) for m in known)
            return super().send_and_receive(known, timeout=timeout)

    found.start(Listening(runs.client_app.app, 2), runs.start(), 1)
    assert sent and not any("123456789123" in text for text in sent)


# --- the privacy spent ----------------------------------------------------------------------------------------------


def accounted(event: Any, rounds: int, delta: float = 1e-5) -> float:
    accountant = rdp.RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    accountant.compose(event, rounds)
    return float(accountant.get_epsilon(delta))


def test_epsilon_is_that_of_the_library() -> None:
    """The sum of updates moves by two bounds if a client is replaced: the multiplier is half of guard.noise."""
    found = strategy(guard=GuardSpec(clip=1.0, noise=4.0, noise_seed=1))
    last = runs.train(found, rounds=5)[-1].guard
    event = SampledWithoutReplacementDpEvent(6, 4, GaussianDpEvent(2.0))
    assert last["privacy/epsilon"] == pytest.approx(accounted(event, 5), rel=1e-9) and last["privacy/delta"] == 1e-5

    adaptive = strategy(guard=GuardSpec(clip=1.0, clip_quantile=0.5, noise=4.0, noise_seed=1))
    last = runs.train(adaptive, rounds=5)[-1].guard
    both = ComposedDpEvent([GaussianDpEvent(2.0), GaussianDpEvent(10.0)])
    event = SampledWithoutReplacementDpEvent(6, 4, both)
    assert last["privacy/epsilon"] == pytest.approx(accounted(event, 5), rel=1e-6)


def test_with_all_clients_in_every_round_it_is_the_gaussian_mechanism() -> None:
    spent = [Spent(6, 6, 3.0, 10)]
    assert privacy.epsilon(spent, 1e-5, 10) == pytest.approx(accounted(GaussianDpEvent(3.0), 10), rel=1e-9)
    assert privacy.epsilon([Spent(3, 6, 3.0, 10)], 1e-5, 10) < privacy.epsilon(spent, 1e-5, 10)


def test_the_ledger() -> None:
    spent: tuple[Spent, ...] = ()
    for population in (6, 6, 7):
        spent = privacy.spend(spent, 4, population, [1.0])
    assert spent == (Spent(4, 6, 1.0, 2), Spent(4, 7, 1.0, 1))
    assert privacy.epsilon(spent, 1e-5, 3) < math.inf
    assert privacy.epsilon(spent, 1e-5, 4) == math.inf  # a round without noise


# --- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fed_rac_lora", "asymm_lora"])
@pytest.mark.parametrize(
    "spec", [GuardSpec(clip=0.5, clip_quantile=0.5, noise=1.0), GuardSpec(mean="geometric_median", clip=0.1)], ids=str
)
def test_a_guarded_run_goes_on_bit_for_bit(tmp_path: Path, name: str, spec: GuardSpec) -> None:
    """Bound, secret and privacy spent are in the checkpoint."""
    whole, rest = (strategy(method=methods()[name], guard=spec) for _ in range(2))

    def after(report: Any) -> None:
        reports.append(report)
        if report.round == 2:
            assert whole.state is not None
            checkpoint.save(tmp_path, whole.state, whole.effective_weights())

    reports: list[Any] = []
    runs.train(whole, rounds=4, on_round=after)
    again = runs.train(rest, rounds=4, state=checkpoint.load(tmp_path))
    equal(rest.effective_weights(), whole.effective_weights())
    assert [r.guard for r in again] == [r.guard for r in reports[2:]]
    assert rest.state is not None and whole.state is not None and rest.state.guard == whole.state.guard


def test_only_the_owner_reads_the_secret(tmp_path: Path) -> None:
    state = ServerState(1, {"w": torch.zeros(1)}, {}, begin(GuardSpec(clip=1.0, noise=1.0), GuardState()))
    checkpoint.save(tmp_path, state, state.weights)
    path = tmp_path / "checkpoint" / "guard.json"
    assert path.stat().st_mode & 0o077 == 0
    assert json.loads(path.read_text())["secret"] == state.guard.secret
    assert (state.guard.secret or 0).bit_length() > 64


# --- what does not go together --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": "mode"}, r"guard.mean='mode' is unknown: choose one of mean, trimmed_mean"),
        ({"hostile": 0, "mean": "krum"}, r"guard.hostile=0 must be at least 1"),
        ({"clip": 0.0}, r"guard.clip=0.0 must be positive and finite, or null"),
        ({"clip": math.inf}, r"guard.clip=inf must be positive"),
        ({"clip": 1.0, "clip_quantile": 1.0}, r"guard.clip_quantile=1.0 must lie between 0 and 1"),
        ({"clip_quantile": 0.5}, r"guard.clip_quantile=0.5 needs guard.clip"),
        ({"clip": 1.0, "noise": -1.0}, r"guard.noise=-1.0 must be 0, or lie in \[1e-06, 1e\+06\]"),
        ({"clip": 1.0, "noise": math.nan}, r"guard.noise=nan must be 0, or lie in"),
        ({"clip": 0.1, "noise": 1e300}, r"guard.noise=1e\+300 must be 0, or lie in"),
        ({"clip": 0.1, "noise": 1e-300}, r"guard.noise=1e-300 must be 0, or lie in"),
        ({"noise": 1.0}, r"guard.noise=1.0 needs guard.clip"),
        ({"noise": 1.0, "clip": 1.0, "mean": "median"}, r"guard.noise=1.0 needs guard.mean=mean"),
        ({"noise": 1.0, "clip": 1.0, "delta": 0.0}, r"guard.delta=0.0 must lie between"),
        ({"noise": 1.0, "clip": 1.0, "noise_seed": -1}, r"guard.noise_seed=-1 must not"),
    ],
)
def test_wrong_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strategy(guard=GuardSpec(**values))


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        ({"mean": "trimmed_mean", "hostile": 2}, {}, r"guard.mean=trimmed_mean with guard.hostile=2 needs at least 5"),
        (
            {"mean": "krum"},
            {"server": ServerSpec(6, min_fraction=0.5)},
            r"at least 5 .* 3 may be all that answer",
        ),
        ({"mean": "median"}, {"method": methods()["flora"]}, r"guard.mean=median.* method.average=products"),
        ({"clip": 1.0}, {"method": methods()["fedex_lora"]}, r"guard.clip=1.0 with method.average=products"),
        (
            {"mean": "median"},
            {"server": ServerSpec(4, weighting="examples")},
            r"weighting=examples with guard.mean",
        ),
        ({"clip": 1.0, "noise": 1.0}, {"server": ServerSpec(4, weighting="examples")}, r"weighting=examples with"),
        ({"clip": 1.0}, {"server": ServerSpec(4, weighting="examples")}, r"guard.clip=1.0: a client could give itself"),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strategy(guard=GuardSpec(**values), **changes)


def test_noise_without_the_package_that_accounts_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"guard.noise needs .* pip install 'fedrac\[privacy\]'"):
        strategy(guard=GuardSpec(clip=1.0, noise=1.0))
