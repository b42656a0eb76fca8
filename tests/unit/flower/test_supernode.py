"""A SuperNode that looks for messages soon after its last answer."""

import inspect
import time

import pytest
from flwr.supernode import start_client_internal

from fedrac.flower import supernode


def test_looks_are_soon_after_an_answer_and_rare_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [1000.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(supernode.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supernode.time, "sleep", sleep)
    clock = supernode.PromptClock()
    clock.sleep(0.5)  # the answer is made
    for _ in range(60):
        clock.sleep(3)
    assert slept[:3] == [0.1, 0.3, 0.3] and slept[-1] == 3
    clock.sleep(0.5)
    clock.sleep(3)
    assert slept[-2:] == [0.1, 0.3]
    assert clock.time is time.time


def test_it_is_flowers_command_with_another_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loop sleeps by the name that is replaced: half a second for an answer, three for a message."""
    assert start_client_internal.time is time
    source = inspect.getsource(start_client_internal)
    assert source.count("time.sleep(3)") == 1 and "time.sleep(0.5)" in source
    monkeypatch.setattr(start_client_internal, "time", time)  # undone afterwards
    started: list[object] = []
    monkeypatch.setattr(supernode, "flower_supernode", lambda: started.append(start_client_internal.time))
    supernode.main()
    assert isinstance(started[0], supernode.PromptClock)
