"""Rows go to files and back, to frames with the sample's dtypes, and to tensors as the door rounds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.publish.rows import Rows, joined, rows_of, tensors
from keelway.types import TensorSpec


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "whole": [1, 2, 3],
            "half": np.array([0.5, np.nan, 1.5], np.float32),
            "text": ["Oslo", None, ""],
            "kind": pd.Categorical(["a", "b", None]),
            "yes": [True, False, True],
            "maybe": pd.array([1, None, 3], dtype="Int64"),
        }
    )


def test_rows_survive_a_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    rows = rows_of(frame)
    rows.save(tmp_path / "rows.npz")
    again = Rows.load(tmp_path / "rows.npz")
    assert again.dtypes == rows.dtypes
    assert again.frame().equals(rows.frame())
    assert again.columns["text"].tolist() == ["Oslo", None, ""]


@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))), min_size=1))
def test_any_text_survives_a_file(tmp_path_factory: pytest.TempPathFactory, texts: list[str | None]) -> None:
    values = np.empty(len(texts), dtype=object)
    values[:] = texts
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    Rows({"text": values}, {"text": "object"}).save(path)
    assert Rows.load(path).columns["text"].tolist() == texts


def test_a_file_of_rows_holds_no_pickle(frame: pd.DataFrame, tmp_path: Path) -> None:
    rows_of(frame).save(tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz", allow_pickle=False) as arrays:
        assert all(array.dtype != object for array in arrays.values())


def test_a_frame_has_the_dtypes_of_the_sample(frame: pd.DataFrame) -> None:
    again = rows_of(frame).frame(whole=True)
    assert again["whole"].dtype == np.int64
    assert again["half"].dtype == np.float32
    assert str(again["kind"].dtype) == "category"
    assert again["yes"].dtype == bool
    assert again["text"].isna().tolist() == [False, True, False]
    assert again["maybe"].isna().tolist() == [False, True, False]
    assert rows_of(frame).frame()["whole"].dtype == np.float64


def test_tensors_are_rounded_as_the_door_rounds(frame: pd.DataFrame) -> None:
    rows = rows_of(frame.assign(whole=[0.1, 16777217, 1e300]))
    packed = tensors(
        rows,
        [TensorSpec("n", "FP32", (-1, 2), ("whole", "half")), TensorSpec("t", "BYTES", (-1, 1), ("text",))],
    )
    assert packed["n"].dtype == np.float32
    assert packed["n"][:, 0].tolist() == [float(np.float32(0.1)), 16777216.0, np.inf]
    assert packed["t"][:, 0].tolist() == ["Oslo", None, ""]


def test_rows_are_joined_in_order(frame: pd.DataFrame) -> None:
    rows = rows_of(frame)
    both = joined([rows, rows.take(np.array([2, 0]))])
    assert both.columns["whole"].tolist() == [1.0, 2.0, 3.0, 3.0, 1.0]
