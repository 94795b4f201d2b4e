"""What a push learns of rows as a whole. # X1"""

from __future__ import annotations

import base64
import json

import msgspec
import numpy as np
import pytest

from keelway.contract.anomaly import MAX_CLASSES, MAX_FEATURES, MIN_HELD_OUT, Detector, fit

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


def crossed(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, in which the other columns follow the first in opposite directions."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 2, rows)
    first = random.normal(size=(rows, 1))
    others = np.where(classes[:, None] > 0, first, -first) + 0.05 * random.normal(size=(rows, 3))
    return np.hstack([first, others]), classes


def test_classes_are_told_apart_and_good_rows_found_as_often_as_was_declared() -> None:
    rows, classes = crossed(4_000)
    detector = fit(rows, names(4), classes)
    assert detector is not None
    assert len(detector.centres) == len(detector.volumes) == 2
    fresh, _ = crossed(50_000, seed=1)
    in_force = detector.thresholds(0.01).rate
    deviation = np.sqrt(0.01 / 2_000 + 0.01 / 50_000)
    assert found(detector, fresh).any(axis=1).mean() == pytest.approx(in_force, abs=4 * deviation)
    row = np.array([[1.5, 0.0, 0.0, 0.0]])
    assert found(detector, row)[0, 1]
    assert not found(fitted(rows), row)[0, 1], "which one covariance does not see"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(detector), type=Detector) == detector


@pytest.mark.parametrize(
    ("width", "count"), [(4, 1), (4, MAX_CLASSES + 1), (MAX_FEATURES // 2, 5)], ids=["one", "many", "wide"]
)
def test_one_class_or_more_than_a_row_has_time_for_are_not_told_apart(width: int, count: int) -> None:
    random = np.random.default_rng(0)
    detector = fit(random.normal(size=(1_000, width)), names(width), np.arange(1_000) % count)
    assert detector is not None
    assert detector.whitening
    assert detector.centres == ()


def test_a_detector_that_was_stored_before_classes_were_told_apart_is_the_same_one() -> None:
    stored = {
        "features": ["a", "b"],
        "fitted": 200,
        "held_out": 199,
        "median": [0.0, 0.0],
        "scale": [1.0, 1.0],
        "mean": [1.0, 0.0],
        "tail": [[3.0, 4.0], [2.0, 3.0]],
        "whitening": base64.b64encode(np.diag([1.0, 2.0]).tobytes()).decode(),
    }
    detector = msgspec.json.decode(json.dumps(stored), type=Detector)
    assert detector.names == ("robust_z", "mahalanobis")
    assert detector.scores(np.array([[4.0, 2.0]])).tolist() == [[4.0, 5.0]]
    assert msgspec.json.decode(msgspec.json.encode(detector)) == stored
