"""The detector on real rows: as many false alarms as it says, and attacks that no single value gives away. # X1"""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks import anomaly


@pytest.mark.parametrize(("data", "splits"), [("breast cancer", 10), ("digits", 5)])
def test_false_alarms_are_within_their_bound_and_attacks_are_caught_twice_as_often_as_by_variance(
    data: str, splits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    load, rate = anomaly.DATA[data]
    rows, classes = load()
    found = [anomaly.measure(rows, rate, seed, classes) for seed in range(splits)]
    print(*anomaly.lines(data, found), sep="\n")
    assert all(one.holds for one in found)
    assert anomaly.holds(found)
    assert capsys.readouterr().out.count(data) == 2


def test_a_detector_that_alarms_too_often_does_not_hold() -> None:
    right = anomaly.Found(0.02, 1_000, 20, 0.9, 0.1, 500)
    assert anomaly.holds([right])
    assert not anomaly.holds([right._replace(false=90)])
    assert not anomaly.holds([right._replace(caught=0.19)])


def test_attacks_have_ordinary_values() -> None:
    rows = np.random.default_rng(0).normal(size=(900, 1)) @ np.ones((1, 5)) + np.random.default_rng(1).normal(
        size=(900, 5), scale=0.1
    )
    found = anomaly.measure(rows, 0.02, 0)
    assert found.caught > 0.9
    assert found.by_variance < 0.1
