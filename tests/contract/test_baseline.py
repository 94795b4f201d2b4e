"""Baselines: what is counted is what was there, and the edges let drift show."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keelway.contract.baseline import MAX_BINS, MAX_CATEGORIES, Baseline, ObservedFeature, observe
from keelway.contract.signature import Feature, infer_features
from keelway.errors import InvalidInput


def observed(values: Any, datatype: str = "FP32") -> ObservedFeature:
    frame = pd.DataFrame({"a": values})
    return observe(frame, [Feature("a", datatype, nullable=True)]).features[0]


def test_numbers_are_summarised_over_their_present_values() -> None:
    # F1
    feature = observed([1.0, 2.0, 3.0, np.nan])
    assert (feature.count, feature.missing) == (3, 1)
    assert (feature.minimum, feature.maximum, feature.mean) == (1.0, 3.0, 2.0)
    assert feature.deviation == pytest.approx(math.sqrt(2 / 3))


def test_an_infinite_value_counts_as_missing() -> None:
    feature = observed([1.0, np.inf, -np.inf, np.nan])
    assert (feature.count, feature.missing, feature.minimum, feature.maximum) == (1, 3, 1.0, 1.0)


def test_the_range_holds_the_values_as_the_model_sees_them() -> None:
    # 0.1 is larger as float32 than as float64: the sample's own maximum must not be out of range when it comes back.
    assert observed([0.0, 0.1]).maximum == float(np.float32(0.1))
    assert observed([0.0, 0.1], "FP64").maximum == 0.1


def test_a_number_beyond_float32_counts_as_missing_in_a_float32_feature() -> None:
    assert observed([1.0, 1e300]).missing == 1
    assert observed([1.0, 1e300], "FP64").missing == 0


def test_both_values_of_a_yes_no_column_have_a_bin() -> None:
    # F1
    feature = observed([0, 1, 1, 1])
    assert feature.edges == (0.0, 0.5, 1.0)
    assert feature.counts == (1, 3)


def test_few_distinct_values_have_a_bin_each() -> None:
    feature = observed(list(range(MAX_BINS)) * 3)
    assert feature.counts == (3,) * MAX_BINS
    assert (feature.edges[0], feature.edges[-1]) == (0, MAX_BINS - 1)


def test_bins_of_a_continuous_column_are_about_equally_full() -> None:
    feature = observed(np.random.default_rng(0).normal(size=2_000))
    assert len(feature.counts) == MAX_BINS
    assert min(feature.counts) >= 95


@pytest.mark.parametrize("repeated", [-1.0, 0.5, 2.0], ids=["lowest", "middle", "highest"])
def test_a_value_that_dominates_does_not_share_its_bin(repeated: float) -> None:
    others = np.random.default_rng(0).uniform(0, 1, size=100)
    feature = observed(np.concatenate([others, np.full(1_900, repeated)]), "FP64")
    assert 1_900 in feature.counts
    assert sum(feature.counts) == 2_000
    assert len(feature.counts) <= MAX_BINS


def test_a_constant_column_has_one_bin() -> None:
    for value in (0.0, 7.0, -3.5):
        feature = observed([value] * 5)
        assert feature.counts == (5,)
        assert feature.edges[0] < value <= feature.edges[1]


def test_a_column_without_any_value_is_described_as_such() -> None:
    assert observed([np.nan, np.nan]) == ObservedFeature("a", count=0, missing=2)
    assert observed(pd.array([None, None], dtype="string"), "BYTES") == ObservedFeature("a", count=0, missing=2)


def test_categories_are_counted_most_frequent_first() -> None:
    feature = observed(["b", "a", "b", None, "c"], "BYTES")
    assert list(feature.categories.items()) == [("b", 2), ("a", 1), ("c", 1)]
    assert (feature.count, feature.missing, feature.categories_cut) == (4, 1, False)


def test_rare_categories_are_cut_and_it_is_said() -> None:
    values = ["often"] * 3 + [f"v{number:05}" for number in range(MAX_CATEGORIES)]
    feature = observed(values, "BYTES")
    assert len(feature.categories) == MAX_CATEGORIES
    assert next(iter(feature.categories)) == "often"
    assert f"v{MAX_CATEGORIES - 1:05}" not in feature.categories
    assert feature.categories_cut
    assert feature.count == len(values)


@pytest.mark.parametrize("dtype", ["bool", "boolean", "object"])
def test_booleans_are_the_categories_false_and_true(dtype: str) -> None:
    assert observed(pd.Series([True, False, True], dtype=dtype), "BOOL").categories == {"true": 2, "false": 1}


def test_features_stand_in_the_signatures_order_and_other_columns_are_left_out() -> None:
    frame = pd.DataFrame({"b": [1], "target": [0], 3: ["x"]})
    baseline = observe(frame, [Feature("3", "BYTES"), Feature("b", "FP32")])
    assert [feature.name for feature in baseline.features] == ["3", "b"]
    assert baseline.rows == 1


def test_a_feature_that_is_a_tensor_is_only_counted() -> None:
    frame = pd.DataFrame({"v": [[1, 2], None]})
    assert observe(frame, [Feature("v", "FP32", shape=(2,))]).features == (ObservedFeature("v", count=1, missing=1),)


@pytest.mark.parametrize(
    ("values", "datatype", "expected"),
    [
        (["x"], "FP32", "holds text where the model takes numbers"),
        ([1.5], "BYTES", "holds numbers where the model takes text"),
        ([1], "BOOL", "holds numbers where the model takes booleans"),
        ([True], "BYTES", "holds booleans where the model takes text"),
    ],
)
def test_a_column_of_another_kind_than_its_feature_is_refused(values: Any, datatype: str, expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected):
        observed(values, datatype)


def test_a_feature_without_a_column_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no column 'b'"):
        observe(pd.DataFrame({"a": [1]}), [Feature("b", "FP32")])


LARGEST = float(np.finfo(np.float64).max)


@given(arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats() | st.sampled_from([0.0, 1.0, LARGEST])))
@example(np.array([-LARGEST]))
@example(np.array([LARGEST, LARGEST]))
@example(np.array([-LARGEST, LARGEST / 2, LARGEST]))
@example(np.array([5e-324, 0.0, -0.0]))
def test_every_baseline_is_complete_and_survives_json(values: Any) -> None:
    for datatype in ("FP32", "FP64"):
        baseline = observe(pd.DataFrame({"a": values}), [Feature("a", datatype, nullable=True)])
        assert baseline.features[0].count + baseline.features[0].missing == baseline.rows == len(values)
        assert_edges_hold_every_value(baseline.features[0])
        assert msgspec.json.decode(msgspec.json.encode(baseline), type=Baseline) == baseline


def assert_edges_hold_every_value(feature: ObservedFeature) -> None:
    assert list(feature.edges) == sorted(set(feature.edges))
    assert all(map(math.isfinite, feature.edges))
    assert len(feature.counts) == max(len(feature.edges) - 1, 0) <= MAX_BINS
    if feature.edges:
        assert sum(feature.counts) == feature.count
        assert feature.minimum is not None
        assert feature.edges[0] <= feature.minimum
        assert feature.edges[-1] == feature.maximum


@given(st.lists(st.text() | st.none(), min_size=1).filter(any))
def test_categories_and_gaps_add_up_to_the_rows(values: list[str | None]) -> None:
    frame = pd.DataFrame({"a": pd.Series(values, dtype=object)})
    feature = observe(frame, infer_features(frame)).features[0]
    assert sum(feature.categories.values()) == feature.count
    assert feature.count + feature.missing == len(values)
    assert feature.missing == values.count(None)
