"""Runs in which the server sees sums alone: the same model as with plain sums, whoever hosts the clients."""

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from command import TINY, facts, weights
from flwr.app import ArrayRecord, Message, MessageType
from runs import CLIENTS, equal, grid, start, strategy, train

import fedrac
from fedrac.aggregation.guard import GuardSpec
from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol import masking
from fedrac.protocol.messages import from_record
from fedrac.protocol.round_report import CohortFailure, Divergence
from fedrac.training.optimizer import LocalSpec

ON, CLIP = SecureSpec(True, bits=24), GuardSpec(clip=5.0)
METHODS = {
    "left": Method(),
    "right": Method(side="right"),
    "alternate": Method(side="alternate"),
    "both": Method(train="both"),
    "full": Method(train="full"),
    "two-sided": Method(side="both"),
    "carried": Method(fresh=False, merge=False),
}


def run(nodes: int = 1, secure: SecureSpec = ON, guard: GuardSpec = CLIP, **changes: object) -> FedRacLora:
    found = strategy(secure=secure, guard=guard, **changes)
    train(found, nodes)
    return found


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_model_is_that_of_the_plain_mean_up_to_the_grid(method: Method) -> None:
    plain = run(secure=SecureSpec(), method=method)
    for name, value in run(method=method).effective_weights().items():
        torch.testing.assert_close(value, plain.effective_weights()[name], rtol=0, atol=1e-4)


def test_masks_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run with masks of zero is the plain sum of the same words."""
    hidden = run()
    monkeypatch.setattr(masking, "mask", lambda seed, length, dtype: torch.zeros(length, dtype=dtype))
    equal(run().effective_weights(), hidden.effective_weights())


def test_it_does_not_matter_who_hosts_the_clients() -> None:
    reports = []
    for nodes in (1, 3, CLIENTS):
        reports.append(train(found := strategy(secure=ON, guard=CLIP), nodes))
        equal(found.effective_weights(), run().effective_weights())
    assert len({tuple((r.upload_bytes, r.train_loss, r.guard["guard/clipped"]) for r in each) for each in reports}) == 1


def test_losses_are_known_as_their_mean_alone() -> None:
    seen: list[Message] = []

    class Watched(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            found = list(super().send_and_receive(messages, timeout=timeout))
            seen.extend(found)
            return found

    reports: list[float] = []
    strategy(secure=ON, guard=CLIP).start(
        Watched(client_app.app, 3), start(), 1, on_round=lambda report: reports.append(report.train_loss)
    )
    answers = [m.content for m in seen if m.metadata.message_type == MessageType.TRAIN]
    assert [set(a.metric_records["metrics"]["losses"]) for a in answers] == [{0.0}] * len(answers)  # type: ignore[arg-type]
    assert {t.dtype for a in answers for t in from_record(a.array_records["factors"]).values()} == {torch.int32}
    assert reports[0] == pytest.approx(train(strategy(guard=CLIP), 3, 1)[0].train_loss, abs=2**-16)


class Losing(InProcessGrid):
    """Nodes whose clients do not answer a kind of message of a round, as if they had gone away."""

    def __init__(self, lost: set[int], kind: str, round_: int = 2) -> None:
        super().__init__(client_app.app, CLIENTS)
        self.lost, self.kind, self.round = lost, kind, round_

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        found = list(super().send_and_receive(messages, timeout=timeout))
        return [m for m in found if not self._is_lost(m)]

    def _is_lost(self, message: Message) -> bool:
        told = message.metadata
        kind = told.message_type == self.kind and told.group_id == str(self.round)
        return kind and told.src_node_id - 1 in self.lost


def test_the_sum_of_who_is_left_counts() -> None:
    """Of a cohort of six, two are lost while they train: the same as if they had never been asked."""
    server = ServerSpec(cohort_size=6, min_fraction=0.5)
    found = strategy(secure=ON, guard=CLIP, server=server)
    reports = []
    found.start(Losing({1, 4}, MessageType.TRAIN), start(), 2, on_round=reports.append)
    early = strategy(secure=ON, guard=CLIP, server=server)
    early.start(Losing({1, 4}, "query.secure"), start(), 2)
    equal(found.effective_weights(), early.effective_weights())
    assert [r.clients for r in reports] == [6, 4]
    assert [str(refusal) for refusal in reports[1].refused] == [f"client {c}: no reply in time" for c in (1, 4)]


def test_too_few_left_end_the_run_and_it_can_go_on() -> None:
    server = ServerSpec(cohort_size=6, min_fraction=0.3)
    found = strategy(secure=ON, guard=CLIP, server=server)
    with pytest.raises(CohortFailure, match=r"round 2: 3 of the 6 clients .*threshold=0.5 needs 4\. "):
        found.start(Losing({1, 4, 5}, MessageType.TRAIN), start(), 3)
    assert found.finished_rounds == 1
    resumed = strategy(secure=ON, guard=CLIP, server=server)
    resumed.start(grid(2), start(), 3, state=found.state)
    whole = strategy(secure=ON, guard=CLIP, server=server)
    train(whole, 3, 3)
    equal(resumed.effective_weights(), whole.effective_weights())


def test_noise_is_the_clients_and_is_accounted_without_a_secret_cohort() -> None:
    pytest.importorskip("dp_accounting")
    noisy = GuardSpec(clip=5.0, noise=2.0)
    reports = train(first := strategy(secure=ON, guard=noisy))
    train(second := strategy(secure=ON, guard=noisy))
    assert any(not torch.equal(a, second.effective_weights()[k]) for k, a in first.effective_weights().items())
    assert math.isnan(reports[0].train_loss) and "guard/clipped" not in reports[0].guard
    plain = train(strategy(guard=GuardSpec(clip=5.0, noise=2.0), server=ServerSpec(cohort_size=6)))
    assert [r.guard["privacy/epsilon"] for r in reports] == [r.guard["privacy/epsilon"] for r in plain]


def test_an_update_that_is_not_finite_is_left_out_by_its_client() -> None:
    huge = {"secure": ON, "guard": CLIP, "local": LocalSpec("sgd", 1e200, batch_size=4)}
    with pytest.raises(Divergence, match="the update is not finite"):
        train(strategy(**huge))


def test_flowers_own_interface_agrees_on_masks_too() -> None:
    found, there = strategy(secure=ON, guard=CLIP), grid(3)
    arrays = start()
    for number in (1, 2, 3):
        messages = list(found.configure_train(number, arrays, None, there))  # type: ignore[arg-type]
        arrays, _ = found.aggregate_train(number, there.send_and_receive(messages))  # type: ignore[assignment]
    assert isinstance(arrays, ArrayRecord)
    equal(from_record(arrays), run().effective_weights())


def test_one_setting_switches_it_on_and_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    on = [*TINY, "secure_aggregation=on", "guard.clip=5"]
    whole = fedrac.run(*on, "rounds=3", f"output_dir={tmp_path}/whole", progress=False)
    fedrac.run(*on, f"output_dir={tmp_path}/part", progress=False)
    resumed = fedrac.run(f"resume={tmp_path}/part", "rounds=3", progress=False)
    assert whole.config["secure_aggregation"]["enabled"] and resumed.config["secure_aggregation"]["enabled"]
    equal(weights(str(tmp_path / "part")), weights(str(tmp_path / "whole")))
    assert facts(str(tmp_path / "part")) == facts(str(tmp_path / "whole"))
