"""Statistics of rounds."""

from __future__ import annotations

import pytest
from benchmarks.rounds import Spread, better_of, ratios, spread


def test_a_spread_is_the_median_the_lowest_and_the_highest() -> None:
    assert spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert spread([1.0, 3.0]).median == 2.0


def test_no_rounds_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        spread([])


def test_ratios_are_taken_round_by_round_and_not_of_the_medians() -> None:
    ours, theirs = [100.0, 200.0, 900.0], [50.0, 400.0, 100.0]
    assert ratios(ours, theirs) == Spread(2.0, 0.5, 9.0)  # The medians alone would say 200 / 100.
    assert ratios([10.0, 30.0, 20.0], [10.0, 10.0, 40.0]).median == 1.0


def test_rounds_that_do_not_match_are_no_ratio() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0, 2.0], [1.0])


def test_the_better_of_two_is_chosen_in_each_round() -> None:
    assert better_of([1.0, 5.0], [3.0, 2.0]) == [3.0, 5.0]
