"""What the benchmarks time against one another is the same work."""

import pytest
import torch

from benchmarks.sides import loop, ours
from benchmarks.workloads import WORKLOADS


@pytest.mark.parametrize("case", ["check-mlp", "check-encoder"])
def test_the_plain_loop_agrees_with_ours(case: str) -> None:
    workload = WORKLOADS[case]
    sides = [module.Side(workload, "cpu") for module in (ours, loop)]
    for side in sides:
        times = side.run(2)
        assert len(times) == 3 and times == sorted(times)
    start, fedrac, plain = workload.build().state_dict(), sides[0].weights(), sides[1].weights()
    for name in plain:
        torch.testing.assert_close(fedrac[name] - start[name], plain[name] - start[name], rtol=1e-3, atol=1e-6)
        assert not torch.equal(plain[name], start[name])


def test_unequal_clients_all_have_an_example() -> None:
    sizes = [len(shard) for shard in WORKLOADS["check-mlp"].shards]
    assert sum(sizes) == WORKLOADS["check-mlp"].examples and min(sizes) >= 1 and max(sizes) > min(sizes)
