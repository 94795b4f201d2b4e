# Y1: an interval holds what it says, and each side is wrong as often as it says
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from keelway.statistics.estimates import Estimated, Normal, Ratio, Share, critical, p_value
from keelway.statistics.multiplicity import holm
from keelway.statistics.pairs import paired_difference

Draw = Callable[[np.random.Generator], Estimated]

ROUNDS = 1_500


def log_losses(random: np.random.Generator) -> Estimated:
    """Of rare events with calibrated probabilities: few large losses among many small ones."""
    probabilities = random.beta(0.6, 9.4, 500)
    happened = random.random(500) < probabilities
    return Ratio(np.where(happened, -np.log(probabilities.clip(1e-9)), -np.log1p(-probabilities)))


def events_by_expected(random: np.random.Generator) -> Estimated:
    probabilities = random.beta(0.6, 9.4, 800)
    return Ratio((random.random(800) < probabilities).astype(float), probabilities)


def two_losses(random: np.random.Generator) -> Estimated:
    ours, theirs = random.normal(size=(2, 200))
    return Ratio(np.abs(0.7 * ours + math.sqrt(0.51) * theirs), np.abs(ours))


def pairs(random: np.random.Generator) -> Estimated:
    first, second, _ = random.multinomial(400, [0.03, 0.05, 0.92])
    return paired_difference(int(first), int(second), 400)


DRAWS: dict[str, tuple[Draw, float]] = {
    "a share": (lambda random: Share(int(random.binomial(200, 0.9)), 200), 0.9),
    "a rare share": (lambda random: Share(int(random.binomial(400, 0.03)), 400), 0.03),
    "a skewed mean": (lambda random: Ratio(random.exponential(1.0, 60)), 1.0),
    "log losses": (log_losses, float(np.mean([log_losses(np.random.default_rng(n)).value for n in range(2_000)]))),
    "events by expected ones": (events_by_expected, 1.0),
    "the ratio of two losses": (two_losses, 1.0),
    "the difference of two shares": (pairs, -0.02),
}


@pytest.mark.parametrize("name", DRAWS)
def test_each_side_of_an_interval_is_wrong_as_seldom_as_it_says(name: str) -> None:
    draw, true = DRAWS[name]
    random = np.random.default_rng(7)
    drawn = np.array([draw(random).z(true) for _ in range(ROUNDS)])
    # Three standard errors of a simulation of 1,500 rounds are 1.7 %; the methods themselves are near, not exact.
    assert (drawn > critical(0.05)).mean() < 0.075
    assert (drawn < -critical(0.05)).mean() < 0.075
    assert (np.abs(drawn) > critical(0.05)).mean() > 0.04, "an interval that is never wrong is too wide"


def test_a_plain_t_test_of_a_skewed_mean_is_wrong_more_often() -> None:
    """Why there is a correction: the same rows without it."""
    random = np.random.default_rng(7)
    rows = random.exponential(1.0, (4_000, 60))
    plain = (rows.mean(axis=1) - 1) / (rows.std(axis=1, ddof=1) / math.sqrt(60))
    assert (plain < -critical(0.05)).mean() > 0.075


@pytest.mark.parametrize("name", DRAWS)
def test_the_interval_is_where_the_tests_are(name: str) -> None:
    found = DRAWS[name][0](np.random.default_rng(1))
    low, high = found.interval(0.05)
    assert low < found.value < high
    assert found.z(low) == pytest.approx(critical(0.05), abs=1e-6)
    assert found.z(high) == pytest.approx(-critical(0.05), abs=1e-6)


def test_a_share_of_nothing_still_has_an_upper_end() -> None:
    assert Share(0, 100).interval(0.05) == pytest.approx((0.0, 0.0263), abs=1e-3)


def test_what_chance_has_no_part_in_is_certain() -> None:
    assert Normal(0.0, 0.0).z(-0.1) == math.inf
    assert Normal(0.0, 0.0).z(0.1) == -math.inf
    assert Normal(0.0, 0.0).z(0.0) == 0.0
    assert Ratio(np.full(50, 0.3)).z(0.2) == math.inf
    assert (p_value(math.inf), p_value(-math.inf), p_value(0.0)) == (1.0, 0.0, 0.5)


def test_two_versions_that_are_never_apart_are_not_proved_equal_by_few_rows() -> None:
    low, high = paired_difference(0, 0, 30).interval(0.05)
    assert low < -0.05 < 0.05 < high


def test_holm_rejects_as_published() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_holm_keeps_the_rate_over_many_tests() -> None:
    values = np.random.default_rng(3).random((2_000, 40))
    assert np.mean([min(holm(list(row))) <= 0.05 for row in values]) == pytest.approx(0.05, abs=0.015)
