"""What a push learns of rows as a whole. # X1"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from keelway.contract.anomaly import MAX_FEATURES, MIN_HELD_OUT, Detector, fit

RANDOM = np.random.default_rng(0)


def correlated(rows: int, width: int = 4, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, 1)) + 0.1 * random.normal(size=(rows, width))


def names(width: int) -> tuple[str, ...]:
    return tuple(f"f{position}" for position in range(width))


def fitted(rows: np.ndarray) -> Detector:
    detector = fit(rows, names(rows.shape[1]))
    assert detector is not None
    return detector


def found(detector: Detector, rows: np.ndarray, rate: float = 0.01) -> np.ndarray:
    return detector.scores(rows) > np.array(detector.thresholds(rate).values)


def test_values_that_do_not_go_together_are_found_though_each_is_usual() -> None:
    detector = fitted(correlated(2_000))
    row = np.array([[1.0, -1.0, 1.0, -1.0]])
    assert found(detector, row).tolist() == [[False, True]]
    assert found(detector, np.ones((1, 4))).tolist() == [[False, False]]
    assert found(detector, np.full((1, 4), 50.0)).tolist() == [[True, True]]


def test_good_rows_are_found_as_often_as_was_declared() -> None:
    detector = fitted(correlated(20_000))
    fresh = correlated(100_000, seed=1)
    for rate in (0.001, 0.01, 0.05):
        in_force = detector.thresholds(rate).rate
        assert in_force == pytest.approx(rate, rel=0.15)
        deviation = np.sqrt(rate / 10_000 + rate / 100_000)  # of the threshold, and of what is counted
        assert found(detector, fresh, rate).any(axis=1).mean() == pytest.approx(in_force, abs=4 * deviation)


def test_a_small_sample_says_which_rate_it_supports() -> None:
    detector = fitted(correlated(300))
    assert detector.held_out == 150
    assert 1 / 151 <= detector.thresholds(1e-3).rate <= 2 / 151


def test_constants_one_hot_columns_and_gaps_have_no_say() -> None:
    rows = correlated(600, 6)
    rows[:, 0] = 3
    rows[:, 1] = rows[:, 1] > 0
    rows[:, 2] = np.nan
    rows[rows[:, 3] > 1, 3] = np.inf
    detector = fitted(rows)
    assert detector.features == ("f3", "f4", "f5")
    assert found(detector, np.array([[np.nan, np.nan, np.nan]])).sum() == 0


@pytest.mark.parametrize("rows", [np.ones((600, 3)), correlated(2 * MIN_HELD_OUT - 1), np.full((600, 2), np.nan)])
def test_where_there_is_nothing_to_learn_there_is_no_detector(rows: np.ndarray) -> None:
    assert fit(rows, names(rows.shape[1])) is None


@pytest.mark.parametrize("width", [1, MAX_FEATURES + 1])
def test_one_feature_or_very_many_are_judged_one_by_one(width: int) -> None:
    detector = fitted(RANDOM.normal(size=(600, width)))
    assert detector.names == ("robust_z",)
    assert found(detector, np.full((1, width), 99.0)).all()


@pytest.mark.parametrize("scale", [1e-20, 1e20, 1e300])
def test_numbers_that_cannot_be_squared_are_left_out(scale: float) -> None:
    rows = correlated(600)
    rows[:, 0] *= scale
    assert fitted(rows).features == ("f1", "f2", "f3")


def test_columns_that_are_copies_of_each_other_do_not_break_it() -> None:
    rows = np.repeat(RANDOM.normal(size=(600, 1)), 3, axis=1)
    detector = fitted(rows)
    assert found(detector, np.array([[1.0, 1.0, -1.0]]))[0, 1]


def test_it_travels_as_json_and_is_the_same_for_the_same_sample() -> None:
    detector = fitted(correlated(500))
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(detector)), Detector) == detector
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(detector), type=Detector) == detector
    assert detector == fitted(correlated(500))
