"""How many threads PyTorch computes with: as many as a step has work for, of the cores that the process may use.

The rule: a thread for every 12.5 million multiplications of a forward pass over the rows of a step, at least one, and
no more than the process has cores by its CPU affinity and its cgroup's quota; a core that does two things at a time is
one core. It never depends on what else the machine does. What a person sets stays: ``OMP_NUM_THREADS`` or
``MKL_NUM_THREADS`` of the environment, or fewer threads by ``torch.set_num_threads``. How the threads wait for one
another is set in `fedrac`, before torch is loaded.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fedrac.loading.machine import whole_cores

MULTIPLICATIONS = 1.25e7  # of a step that are worth a thread: some 0.3 ms, in a dozen products that are divided
_SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_decided = False


def fitting(multiplications: float) -> int:
    """Threads for steps of so many multiplications; at most as many as PyTorch has now."""
    if any(name in os.environ for name in _SET_BY_USER):
        return torch.get_num_threads()
    return capped(multiplications)


def capped(multiplications: float) -> int:
    """The same whether or not a person has asked for more."""
    return max(1, int(min(torch.get_num_threads(), whole_cores(), multiplications / MULTIPLICATIONS)))


@contextmanager
def using(count: int) -> Iterator[None]:
    """``count`` threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def of_a_run() -> Iterator[None]:
    """A run in this process. What it sets by ``torch.set_num_threads`` holds for its hosts, and ends with it."""
    global _decided
    before, _decided = _decided, True
    try:
        with using(torch.get_num_threads()):
            yield
    finally:
        _decided = before


@contextmanager
def of_a_host(multiplications: Callable[[], float]) -> Iterator[None]:
    """Training in a host, whose process follows the rule by itself where no run has done so."""
    with using(torch.get_num_threads() if _decided else fitting(multiplications())):
        yield
