"""Thresholds keep the rate that they promise, whatever the distribution. # X1"""

from __future__ import annotations

import numpy as np
import pytest

from keelway.statistics.held_out import tail, thresholds


def alarms(scores: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
    return (scores > np.array(values)).any(axis=1)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("together", [0.0, 0.9, 1.0])
def test_the_false_alarms_of_all_scores_together_are_as_many_as_was_said(rate: float, together: float) -> None:
    random = np.random.default_rng(3)
    said, found = [], []
    for _ in range(200):
        one, other = random.standard_cauchy(size=(2, 5_000))
        scores = np.stack([one, np.where(random.random(5_000) < together, one, other)], axis=1)
        chosen = thresholds(tail(scores[:2_000], 200), 2_000, rate)
        said.append(chosen.rate)
        found.append(alarms(scores[2_000:], chosen.values).mean())
    # 600,000 rows, and the spread of the threshold itself: four deviations of both.
    deviation = np.sqrt(rate / 2_000 / 200 + rate / 600_000)
    assert np.mean(said) <= rate + 1e-9 or rate == 0.001
    assert np.mean(found) == pytest.approx(np.mean(said), abs=4 * deviation)


def test_too_few_rows_for_a_rate_make_the_smallest_rate_that_they_support() -> None:
    scores = np.arange(100.0)[:, None]
    assert thresholds(scores, 100, 1e-3) == ((99.0,), 1 / 101)
    assert thresholds(scores, 100, 0.05).rate == pytest.approx(5 / 101)
    both = np.stack([np.arange(100.0), np.arange(100.0)[::-1]], axis=1)
    assert thresholds(both, 100, 1e-3).rate == pytest.approx(2 / 101)


def test_the_tail_says_as_much_as_all_scores() -> None:
    random = np.random.default_rng(4)
    scores = random.normal(size=(1_000, 2))
    kept = tail(scores, 52)
    assert len(kept) < 110
    for rate in (0.001, 0.004, 0.02, 0.05):
        assert thresholds(kept, 1_000, rate) == thresholds(scores, 1_000, rate)


def test_equal_scores_are_no_alarms() -> None:
    assert thresholds(np.ones((50, 1)), 500, 0.01) == ((1.0,), 1 / 501)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05])
def test_scores_of_few_values_do_not_alarm_more_often_than_was_said(rate: float) -> None:
    random = np.random.default_rng(5)
    said, found = [], []
    for _ in range(200):
        scores = np.minimum(random.geometric([0.5, 0.4], size=(5_000, 2)), 8).astype(float)
        chosen = thresholds(tail(scores[:2_000], 102), 2_000, rate)
        said.append(chosen.rate)
        found.append(alarms(scores[2_000:], chosen.values).mean())
    assert np.mean(said) <= max(rate, 1 / 2_001) + 1e-9
    assert np.mean(found) <= np.mean(said) + 4 * np.sqrt(rate / 2_000 / 200 + rate / 600_000)
