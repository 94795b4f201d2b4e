"""Parts of a golden sample, each looked at by itself."""

from __future__ import annotations

import numpy as np
import pytest

from keelway.publish.slices import MAX_CATEGORIES, slices
from keelway.types import Array


def parts(column: Array) -> dict[str, list[int]]:
    return {part.what: np.flatnonzero(part.rows).tolist() for part in slices({"x": column})}


def test_categories_are_slices_and_what_is_missing_is_one_too() -> None:
    column = np.array(["b", "a", None, "b", "b"], object)
    assert parts(column) == {"b": [0, 3, 4], "a": [1], "missing": [2]}
    assert parts(np.array([True, False, True])) == {"True": [0, 2], "False": [1]}


def test_rare_categories_are_one_slice() -> None:
    names = [f"c{place}" for place in range(MAX_CATEGORIES + 3)]
    found = parts(np.array([*names, *names[:MAX_CATEGORIES]], object))
    assert len(found) == MAX_CATEGORIES + 1
    assert found["others"] == [MAX_CATEGORIES, MAX_CATEGORIES + 1, MAX_CATEGORIES + 2]


def test_few_numbers_are_slices_of_their_own() -> None:
    assert parts(np.array([0.0, 1.0, np.nan, 1.0], np.float32)) == {"0": [0], "1": [1, 3], "missing": [2]}


@pytest.mark.parametrize("values", [np.arange(100.0), np.r_[np.zeros(60), np.arange(1.0, 41.0)], np.arange(100)])
def test_every_number_is_in_one_bin(values: Array) -> None:
    found = parts(values)
    assert sorted(place for places in found.values() for place in places) == list(range(100))
    assert 2 <= len(found) <= 4


def test_what_is_the_same_everywhere_and_what_differs_everywhere_is_no_slice() -> None:
    assert parts(np.array(["a"] * 5, object)) == {}
    assert parts(np.array(["a", "b", "c"], object)) == {}
    assert parts(np.full(5, np.nan)) == {}
    assert parts(np.zeros((5, 3))) == {}
