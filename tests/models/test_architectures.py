"""Every architecture: exact, or refused for a reason; none is wrong."""

import re

import exactness
import pytest
import torch
from architectures import ALL, Architecture
from exactness import EXACT, MODES, outcome

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop because we have not yet implemented the batching rule", "ignore:.*Profiler"
)


def _id(architecture: Architecture) -> str:
    return re.sub(r"\W+", "_", f"{architecture.family}-{architecture.name}")


EACH = [pytest.param(a, id=_id(a), marks=() if a.quick else pytest.mark.slow) for a in ALL]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("architecture", EACH)
def test_a_cohort_is_each_client_alone_with_plain_torch(architecture: Architecture, mode: str) -> None:
    found, refused = outcome(architecture, mode), dict(architecture.refused).get(mode)
    if refused is not None:
        assert re.search(refused, found.refused)
    else:
        assert not found.refused
        assert found.difference is not None and found.difference < EXACT


def test_names_are_used_once() -> None:
    assert len({(a.family, a.name) for a in ALL}) == len(ALL) >= 60


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_result_is_seen(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number of one client, moved by a hundred-thousandth of the step."""
    train = exactness.train_cohort

    def slightly_wrong(*arguments: object) -> object:
        found = train(*arguments)  # type: ignore[arg-type]
        with torch.no_grad():
            next(iter(found.factors.values()))[1].view(-1)[0] += 1e-6
        return found

    monkeypatch.setattr(exactness, "train_cohort", slightly_wrong)
    found = outcome(next(a for a in ALL if a.name == "MLP"), mode).difference
    assert found is not None and found > EXACT
