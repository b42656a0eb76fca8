"""A client's time is that of its work at its rates, and its rates are its own."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrac.algorithm.simulated_time import LogNormal, SystemSpec, Work

WORK = Work(examples=30, download=4000, upload=500)


def test_a_round_is_download_training_and_upload() -> None:
    spec = SystemSpec(speed=10.0, upload=100.0, download=1000.0)
    assert spec.seconds(3, WORK, 1, 1) == 4000 / 1000 + 30 / 10 + 500 / 100
    assert SystemSpec(speed=10.0).seconds(3, WORK, 1, 1) == 3.0
    assert not SystemSpec().is_active and SystemSpec().seconds(3, WORK, 1, 1) == 0.0


def test_rates_are_log_normal_over_clients_and_the_same_in_all_rounds() -> None:
    spec = SystemSpec(speed=LogNormal(50.0, 0.7))
    logs = np.log([spec.rate("speed", client, 1) for client in range(4000)])
    assert logs.mean() == pytest.approx(math.log(50), abs=4 * 0.7 / 4000**0.5)
    assert logs.std() == pytest.approx(0.7, abs=0.04)
    assert spec.seconds(8, WORK, 1, 1) == spec.seconds(8, WORK, 1, 99)
    assert spec.rate("speed", 8, 1) != spec.rate("speed", 8, 2)


def test_kinds_of_rates_are_drawn_apart() -> None:
    spec = SystemSpec(LogNormal(1.0, 1.0), LogNormal(1.0, 1.0), LogNormal(1.0, 1.0))
    logs = np.log([[spec.rate(name, client, 1) for name in ("speed", "upload")] for client in range(2000)])
    assert abs(np.corrcoef(logs.T)[0, 1]) < 4 / 2000**0.5


def test_jitter_is_of_a_round() -> None:
    spec = SystemSpec(speed=10.0, jitter=0.5)
    logs = np.log([spec.seconds(2, WORK, 1, t) / 3.0 for t in range(1, 2001)])
    assert abs(logs.mean()) < 4 * 0.5 / 2000**0.5 and logs.std() == pytest.approx(0.5, abs=0.04)


def test_a_table_comes_first(tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text("client,speed,upload\n2,5,\n4,,50\n")
    spec = SystemSpec(speed=10.0, upload=100.0, table=str(tmp_path / "rates.csv"))
    assert [spec.rate("speed", c, 1) for c in (2, 4, 6)] == [5, 10, 10]
    assert [spec.rate("upload", c, 1) for c in (2, 4, 6)] == [100, 50, 100]
    assert spec.rate("download", 2, 1) == math.inf


@pytest.mark.parametrize("text", ["", "client\n1\n", "speed\n1\n", "client,speed\n1,fast\n", "client,speed\n1,-3\n"])
def test_a_table_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=r"system\.table="):
        SystemSpec(table=str(tmp_path / "bad.csv"))


WRONG: list[dict[str, Any]] = [
    {"speed": 0.0},
    {"upload": LogNormal(-1.0)},
    {"download": LogNormal(1.0, -0.5)},
    {"jitter": -1.0},
    {"deadline": 0.0, "speed": 1.0},
    {"deadline": 3.0},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"system\."):
        SystemSpec(**wrong)
