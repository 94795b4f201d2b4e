# Y1: probabilities that mean what they say, and such that do not
from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from keelway.statistics import calibration
from keelway.statistics.estimates import Floats, critical


def drawn(seed: int, slope: float = 1.0, rows: int = 2_000) -> tuple[Floats, Floats]:
    """Events of true log-odds, and probabilities whose recalibration has that ``slope``."""
    random = np.random.default_rng(seed)
    odds = random.normal(-2.0, 1.0, rows)
    happened = random.random(rows) < 1 / (1 + np.exp(-odds))
    return happened.astype(float), 1 / (1 + np.exp(-odds / slope))


@pytest.mark.parametrize("true", [1.0, 0.3, 1.5])
def test_the_slope_is_found_and_its_interval_holds(true: float) -> None:
    found = [calibration.slope(*drawn(seed, true, 1_000)) for seed in range(300)]
    z = np.array([one.z(true) for one in found if one is not None])
    assert len(z) == 300
    assert (z > critical(0.05)).mean() < 0.09
    assert (z < -critical(0.05)).mean() < 0.09


def test_the_slope_is_that_of_a_logistic_regression() -> None:
    happened, probabilities = drawn(0)
    odds = np.log(probabilities / (1 - probabilities))[:, None]
    fitted = LogisticRegression(C=np.inf).fit(odds, happened)
    found = calibration.slope(happened, probabilities)
    assert found is not None
    assert found.value == pytest.approx(fitted.coef_[0, 0], rel=1e-3)


def test_no_slope_is_made_of_scores_that_say_nothing_or_everything() -> None:
    happened, probabilities = drawn(0)
    assert calibration.slope(happened, np.full_like(probabilities, 0.2)) is None
    assert calibration.slope(happened, np.where(happened == 1, 0.9, 0.1)) is None
    assert calibration.slope(np.zeros_like(happened), probabilities) is None


def test_the_calibration_error_of_perfect_scores_is_that_of_chance() -> None:
    random = np.random.default_rng(0)
    above = 0
    for seed in range(80):
        happened, probabilities = drawn(seed, rows=500)
        error = calibration.expected_calibration_error(happened, probabilities)
        above += error > calibration.chance_calibration_error(probabilities, random)
    assert above / 80 == pytest.approx(0.05, abs=0.07)
    happened, probabilities = drawn(0)
    error = calibration.expected_calibration_error(happened, 1 - probabilities)
    assert error > calibration.chance_calibration_error(1 - probabilities, random)
