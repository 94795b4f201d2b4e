"""Medians and scales that a few values cannot move. # X1"""

from __future__ import annotations

import numpy as np
import pytest

from keelway.statistics.robust import centre_and_scale


def test_of_normal_values_it_is_the_mean_and_the_deviation() -> None:
    centre, scale = centre_and_scale(np.random.default_rng(0).normal(5, 2, (200_000, 1)))
    assert centre[0] == pytest.approx(5, abs=0.02)
    assert scale[0] == pytest.approx(2, abs=0.02)


def test_a_third_of_wild_values_moves_it_little() -> None:
    values = np.random.default_rng(0).normal(size=(9_000, 1))
    values[:3_000] = 1e9
    centre, scale = centre_and_scale(values)
    assert abs(centre[0]) < 1
    assert scale[0] < 3


def test_a_column_that_is_mostly_one_value_has_a_scale_all_the_same() -> None:
    column = np.array([[0.0]] * 90 + [[10.0]] * 10)
    centre, scale = centre_and_scale(column)
    assert (centre[0], scale[0]) == (0, pytest.approx(1.2533))
    assert centre_and_scale(np.ones((5, 1)))[1][0] == 0


def test_missing_values_are_left_out() -> None:
    centre, _ = centre_and_scale(np.array([[1.0], [np.nan], [3.0], [2.0]]))
    assert centre[0] == 2
