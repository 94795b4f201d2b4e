"""Two networks compared: what counts as equal, and what never does."""

from __future__ import annotations

import numpy as np
import pytest

from keelway.errors import ModelFailed
from keelway.publish.tensor_proof import compare_tensors, scales_of

VALUES = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
SCALES = {"a": 1.0}


def test_equal_answers_hold_and_nan_equals_nan() -> None:
    answer = {"a": np.array([[np.nan, np.inf]], np.float32)}
    found = compare_tensors([answer], [answer], SCALES, 0.0)
    assert (found.holds, found.rows, found.worst_difference) == (True, 1, 0.0)


def test_the_worst_example_is_named_over_all_batches() -> None:
    other = VALUES.copy()
    other[1, 0] += 0.3
    found = compare_tensors([{"a": VALUES}, {"a": VALUES}], [{"a": VALUES}, {"a": other}], SCALES, 1e-4)
    assert (found.holds, found.rows, found.worst_row, found.beyond) == (False, 4, 3, 0.25)
    assert found.worst_difference == pytest.approx(0.1, rel=1e-3)


def test_a_difference_is_relative_to_the_spread_of_the_output() -> None:
    other = VALUES + np.float32(0.001)
    assert compare_tensors([{"a": VALUES}], [{"a": other}], {"a": 1000.0}, 1e-5).holds
    assert not compare_tensors([{"a": VALUES}], [{"a": other}], {"a": 1.0}, 1e-5).holds


def test_whole_numbers_and_booleans_have_to_be_equal() -> None:
    answer = {"a": np.array([1, 2, 3]), "b": np.array([True, False, True])}
    assert compare_tensors([answer], [answer], {}, 1.0).holds
    for name, value in (("a", np.array([1, 2, 4])), ("b", np.array([True, True, True]))):
        found = compare_tensors([answer], [{**answer, name: value}], {}, 1.0)
        assert (found.holds, found.label_differences) == (False, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_where_the_original_has_none_is_infinitely_far(value: float) -> None:
    other = VALUES.copy()
    other[0, 0] = value
    for left, right in ((VALUES, other), (other, VALUES)):
        assert compare_tensors([{"a": left}], [{"a": right}], SCALES, 1.0).worst_difference == np.inf


def test_a_missing_output_or_another_shape_is_no_comparison() -> None:
    for other in ({}, {"a": VALUES[:1]}, {"a": VALUES[:, :1]}):
        with pytest.raises(ModelFailed, match="'a' has another shape"):
            compare_tensors([{"a": VALUES}], [other], SCALES, 1.0)


def test_outputs_without_a_common_batch_axis_count_as_one_example() -> None:
    answer = {"a": np.zeros((3, 2)), "b": np.float32(1).reshape(())}
    assert compare_tensors([answer], [answer], {"a": 1.0, "b": 1.0}, 0.0).rows == 1


def test_the_spread_is_that_of_the_finite_values_and_never_nothing() -> None:
    found = scales_of(
        [{"a": np.array([1.0, 3.0, np.inf]), "b": np.array([5.0, 5.0]), "c": np.array([0.0]), "d": np.array([1])}]
    )
    assert found == {"a": 1.0, "b": 5.0, "c": 1.0}
