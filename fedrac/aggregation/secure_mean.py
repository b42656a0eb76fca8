"""The mean of a round of which only the sum is known."""

from dataclasses import replace

from fedrac.aggregation import privacy
from fedrac.aggregation.guard import Guarded, GuardSpec
from fedrac.aggregation.secure_grid import SecureTotal
from fedrac.aggregation.update_vectors import UpdateVectors
from fedrac.algorithm.state import GuardState


def secure_mean(
    spec: GuardSpec,
    state: GuardState,
    space: UpdateVectors,
    total: SecureTotal,
    clients: int,
    round_: int,
    cohort: int,
) -> Guarded:
    """What `fedrac.aggregation.guard.guard` gives, from the sum alone; clients have clipped, and added their noise.

    Those who share masks know who takes part, and so does the server. So the cohort is no secret, and privacy is
    accounted as if all clients were in every round.

    Args:
        spec: bound and noise.
        state: from `fedrac.aggregation.guard.begin`.
        space: in which updates are measured.
        total: the sum.
        clients: how many it is of.
        round_: from 1.
        cohort: how many clients were asked; with noise, one that did not answer counts as an update of zero.
    """
    facts: dict[str, float] = {} if spec.clip is None else {"guard/clip": spec.clip}
    if total.uncut is not None:
        facts["guard/clipped"] = 1.0 - total.uncut / clients
    if spec.noise:
        state = replace(state, spent=privacy.spend(state.spent, cohort, cohort, [spec.noise / 2]))
        facts |= {"privacy/epsilon": privacy.epsilon(state.spent, spec.delta, round_), "privacy/delta": spec.delta}
    return Guarded(space.factors(total.row / (cohort if spec.noise else clients)), state, facts)
