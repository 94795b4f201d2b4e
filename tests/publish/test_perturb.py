"""The rows of a proof: they are what they are said to be, and steps are found to the last float32."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from keelway.publish.original import Original, nodes_of
from keelway.publish.perturb import ROWS, Perturbation, _from_grid, _to_grid
from keelway.publish.rows import Rows, rows_of
from keelway.types import Array

STEP = 0.3


@pytest.fixture(scope="module")
def sample() -> Rows:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": random.normal(size=100), "b": random.normal(size=100), "c": random.choice(["x", "y"], 100)}
    )
    frame.loc[:9, "b"] = np.nan
    frame.loc[:9, "c"] = np.nan
    return rows_of(frame)


def step(rows: Rows) -> tuple[Array, Array]:
    """A model with one step, in ``a``; it accepts every row."""
    return (rows.columns["a"] > STEP).astype(np.int64), np.ones(len(rows), bool)


def values(rows: Rows) -> tuple[Array, Array]:
    labels, accepted = step(rows)
    return labels[:, None].astype(np.float64), accepted


def made(sample: Rows, seed: int = 0) -> dict[str, Rows]:
    return dict(Perturbation(sample, frozenset({"b", "c"}), seed).rows(step, values))


def test_at_least_five_thousand_rows_are_made(sample: Rows) -> None:
    assert sum(map(len, made(sample).values())) >= ROWS


def test_the_same_seed_makes_the_same_rows(sample: Rows) -> None:
    first, second, third = made(sample), made(sample), made(sample, seed=1)
    for kind, rows in first.items():
        assert rows.frame().equals(second[kind].frame())
    assert not first["resampled"].frame().equals(third["resampled"].frame())


def test_the_sample_itself_is_left_as_it_is(sample: Rows) -> None:
    before = {name: array.copy() for name, array in sample.columns.items()}
    made(sample)
    assert sample.frame().equals(Rows(before, sample.dtypes).frame())


def test_a_step_is_bisected_to_two_neighbouring_float32_values(sample: Rows) -> None:
    found = made(sample)["beside a step between labels"].columns["a"]
    nearest = np.float32(STEP)  # just above the step
    assert set(found.tolist()) == {float(np.nextafter(nearest, np.float32(0))), float(nearest)}


def test_missing_values_stand_only_where_one_may_be_missing(sample: Rows) -> None:
    rows = made(sample)["missing values"].columns
    assert not np.isnan(rows["a"]).any()
    assert np.isnan(rows["b"]).mean() > 0.2
    assert np.mean([value is None for value in rows["c"]]) > 0.2


def test_unseen_texts_are_unseen_and_not_empty_where_that_would_mean_missing(sample: Rows) -> None:
    texts = set(made(sample)["unseen values"].columns["c"]) - {"x", "y", None}
    assert len(texts) > 5
    assert "" not in texts


def test_extreme_values_reach_the_end_of_float32(sample: Rows) -> None:
    rows = made(sample)["extreme values"]
    assert np.nanmax(rows.columns["a"]) > 1e38
    assert np.isfinite(np.nan_to_num(rows.columns["a"])).all()


def test_pairs_around_rows_that_the_model_refuses_are_given_up(sample: Rows) -> None:
    def picky(rows: Rows) -> tuple[Array, Array]:
        labels, _ = step(rows)
        return labels, np.isin(rows.columns["a"], np.float32(sample.columns["a"]).astype(np.float64))

    perturbation = Perturbation(sample, frozenset())
    assert (
        len(
            perturbation.label_steps(
                Rows({**sample.columns, "a": np.float32(sample.columns["a"]).astype(np.float64)}, sample.dtypes), picky
            )
        )
        == 0
    )


def test_every_chosen_node_of_a_forest_is_reached_by_its_row() -> None:
    random = np.random.default_rng(1)
    frame = pd.DataFrame(random.normal(size=(200, 3)), columns=["a", "b", "c"])
    forest = RandomForestClassifier(5, max_depth=4, random_state=0).fit(frame, frame["a"] + frame["b"] > 0)
    columns = ("a", "b", "c")
    nodes = nodes_of(forest, columns, rows_of(frame), 1_000, random)
    assert len(nodes.rows) == sum((tree.tree_.children_left != -1).sum() for tree in forest.estimators_)
    beside = Perturbation(rows_of(frame), frozenset()).beside(nodes)
    at, above = (beside.take(np.arange(offset, len(beside), 3)) for offset in (0, 2))
    original = Original(forest, columns)
    # Each pair straddles a threshold on a path that the row takes, so most pairs differ in their answer.
    assert (original.values(at)[0] != original.values(above)[0]).any(axis=1).mean() > 0.8


def test_thresholds_of_histogram_trees_are_read_too() -> None:
    random = np.random.default_rng(1)
    frame = pd.DataFrame(random.normal(size=(200, 2)), columns=["a", "b"])
    model = HistGradientBoostingClassifier(max_iter=3).fit(frame, frame["a"] > 0)
    nodes = nodes_of(model, ("a", "b"), rows_of(frame), 1_000, random)
    assert len(nodes.thresholds) > 3
    assert np.isfinite(nodes.thresholds).all()


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_grid_of_float32_keeps_values_and_neighbours(value: float) -> None:
    array = np.array([value])
    there = _to_grid(array)
    assert _from_grid(there) == array
    with np.errstate(over="ignore"):  # what lies above the largest is no number
        above = np.nextafter(np.float32(value), np.float32(np.inf)).astype(np.float64)
    if value != 0 and np.isfinite(above):  # -0 and 0 are one value and two places
        assert _from_grid(there + 1) == above
