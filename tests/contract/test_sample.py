"""Samples: every format reads to the same frame, and whatever is wrong ends in one line."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.contract.sample import column_kind, column_names, numbers, read_sample, split_target
from keelway.errors import FailedPrecondition, InvalidInput, KeelwayError, NotFound

FRAME = pd.DataFrame({"age": [31, 58], "income": [1.5, np.nan], "city": ["Bonn", "Köln"], "owner": [True, False]})


def write_arrow(path: Path) -> None:
    table = pa.Table.from_pandas(FRAME)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def write_stream(path: Path) -> None:
    table = pa.Table.from_pandas(FRAME)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "s.csv": lambda path: FRAME.to_csv(path, index=False),
    "s.tsv": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "s.parquet": lambda path: pyarrow.parquet.write_table(pa.Table.from_pandas(FRAME), path),
    "file.arrow": write_arrow,
    "stream.feather": write_stream,
    "s.json": lambda path: path.write_text(FRAME.to_json(orient="records")),
    "s.jsonl": lambda path: path.write_text(FRAME.to_json(orient="records", lines=True) + "\n\n"),
    "UPPER.CSV": lambda path: FRAME.to_csv(path, index=False),
    "bom.csv": lambda path: FRAME.to_csv(path, index=False, encoding="utf-8-sig"),
}


def assert_is_the_frame(frame: pd.DataFrame) -> None:
    assert list(frame.columns) == list(FRAME.columns)
    assert frame["age"].tolist() == [31, 58]
    assert frame["income"][0] == 1.5
    assert np.isnan(frame["income"][1])
    assert frame["city"].tolist() == ["Bonn", "Köln"]
    assert frame["owner"].tolist() == [True, False]


@pytest.mark.parametrize("name", WRITERS)
def test_every_file_format_reads_to_the_same_frame(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert_is_the_frame(read_sample(tmp_path / name))
    assert_is_the_frame(read_sample(str(tmp_path / name)))


@pytest.mark.parametrize(
    "source", [FRAME, pa.Table.from_pandas(FRAME), {name: FRAME[name].tolist() for name in FRAME}], ids=type
)
def test_every_form_in_memory_reads_to_the_same_frame(source: Any) -> None:
    assert_is_the_frame(read_sample(source))


def test_array_columns_are_numbered(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "a.npy", array)
    for frame in (read_sample(array), read_sample(tmp_path / "a.npy")):
        assert list(frame.columns) == ["x0", "x1", "x2"]
        assert frame.to_numpy().tolist() == array.tolist()


def test_flat_arrays_of_an_npz_are_columns_beside_the_table(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.zeros((3, 2)), target=np.array([0, 1, 0]))
    frame, target = split_target(read_sample(tmp_path / "a.npz"), "target")
    assert list(frame.columns) == ["x0", "x1"]
    assert target.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": np.zeros((2, 2)), "b": np.zeros((2, 2))},
        {"a": np.zeros((2, 2)), "b": np.zeros(3)},
        {"a": np.zeros((2, 2, 2))},
    ],
)
def test_an_npz_that_is_no_single_table_is_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InvalidInput, match=r"a\.npz"):
        read_sample(tmp_path / "a.npz")


def test_a_pickle_inside_an_array_file_is_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[object()]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", np.array([[object()]], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InvalidInput, match="cannot be read"):
            read_sample(tmp_path / name)


def test_json_columns_do_not_become_dates_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('[{"modified": 1600000000, "created_at": 5}]')
    frame = read_sample(tmp_path / "s.json")
    assert frame["modified"].tolist() == [1_600_000_000]
    assert frame["created_at"].tolist() == [5]


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "zero bytes": ("s.csv", b"", "is empty"),
    "blank": ("s.csv", b"\n\n", "cannot be read"),
    "header alone": ("s.csv", b"a,b\n", "no rows"),
    "repeated name": ("s.csv", b"a,a\n1,2\n", "'a' occurs more than once"),
    "nameless index": ("s.csv", b",a\n0,1\n", "column 1 of the sample has no name"),
    "more values than names": ("s.csv", b"a,b\n1,2,3\n", "more values"),
    "ragged": ("s.csv", b"a,b\n1,2\n1,2,3,4\n", "cannot be read"),
    "latin-1": ("s.csv", "a\nK\xf6ln\n".encode("latin-1"), "cannot be read"),
    "not parquet": ("s.parquet", b"a,b\n1,2\n", "cannot be read as .parquet"),
    "cut parquet": ("s.parquet", b"PAR1\0\0", "cannot be read"),
    "not arrow": ("s.arrow", b"ARROW1\0\0nonsense", "cannot be read"),
    "not json": ("s.json", b"[{", "cannot be read"),
    "json columns": ("s.json", b'{"a": {"0": 1}}', "does not hold records"),
    "json rows": ("s.json", b"[[1, 2]]", "does not hold records"),
    "json nothing": ("s.json", b"[]", "no columns"),
    "not lines": ("s.jsonl", b'{"a": 1}\n{', "cannot be read"),
    "not npy": ("s.npy", b"\x80\x04N.", "cannot be read"),
    "not npz": ("s.npz", b"PK\x03\x04", "cannot be read"),
    "suffix": ("s.xlsx", b"PK", "unknown suffix '.xlsx'"),
    "no suffix": ("sample", b"a\n1\n", "unknown suffix"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_ends_in_one_line_with_a_hint(case: str, tmp_path: Path) -> None:
    name, content, expected = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        read_sample(tmp_path / name)
    assert expected in caught.value.message
    assert "\n" not in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert caught.value.hint


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no sample file 'gone\.csv'"):
        read_sample(tmp_path / "gone.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidInput, match="cannot be"):
        read_sample(tmp_path / "folder.csv")


@given(
    content=st.binary(max_size=200),
    suffix=st.sampled_from([".csv", ".tsv", ".parquet", ".arrow", ".json", ".jsonl", ".npy", ".npz"]),
)
def test_whatever_the_bytes_the_error_is_ours(
    content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_bytes(content)
    try:
        frame = read_sample(path)
    except KeelwayError:
        return
    assert len(frame) > 0
    assert all(isinstance(name, str) and name.strip() for name in frame.columns)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (np.zeros(3), "2 dimensions"),
        (np.zeros((2, 0)), "no columns"),
        (np.zeros((0, 2)), "no rows"),
        (np.zeros((1, 1), dtype=[("a", "f4")]), "2 dimensions"),
        ({}, "no columns"),
        ({"a": [1], "b": [1, 2]}, "do not form a table"),
        ({"a": 1}, "do not form a table"),
        ({"a": {1, 2}}, "do not form a table"),
        (pd.DataFrame({"a": []}), "no rows"),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), "more than once"),
        (b"a,b", "type bytes"),
        (None, "type NoneType"),
    ],
    ids=repr,
)
def test_a_source_that_is_no_table_is_refused(source: Any, expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected):
        read_sample(source)


def test_reading_leaves_the_callers_frame_alone() -> None:
    frame = pd.DataFrame(np.zeros((1, 2)))
    assert list(read_sample(frame).columns) == ["0", "1"]
    assert list(frame.columns) == [0, 1]


@pytest.mark.parametrize(
    "names", [["a", "a"], ["1", 1], [""], ["  "], [None], [np.nan], [("a", "b")], ["\ud800"], []], ids=repr
)
def test_names_that_cannot_be_told_apart_or_written_are_refused(names: list[Any]) -> None:
    with pytest.raises(InvalidInput):
        column_names(names)


def test_an_unknown_target_is_named_with_close_matches() -> None:
    with pytest.raises(InvalidInput, match="no target column 'ovner'") as caught:
        split_target(FRAME, "ovner")
    assert caught.value.hint == "did you mean owner"
    with pytest.raises(InvalidInput) as caught:
        split_target(FRAME, "zzz")
    assert caught.value.hint == "the columns are age, income, city, owner"


def test_a_target_without_features_is_refused() -> None:
    with pytest.raises(InvalidInput, match="only column"):
        split_target(FRAME[["age"]], "age")


def test_the_target_is_split_off_without_changing_the_sample() -> None:
    frame, target = split_target(FRAME, "age")
    assert list(frame.columns) == ["income", "city", "owner"]
    assert target.tolist() == [31, 58]
    assert "age" in FRAME


@pytest.mark.parametrize(
    ("values", "dtype", "kind"),
    [
        ([1, 2], "int8", "number"),
        ([1, 2], "uint64", "number"),
        ([1.5], "float16", "number"),
        ([1, None], "Int64", "number"),
        ([1, None], "Float32", "number"),
        ([1, None], pd.ArrowDtype(pa.int32()), "number"),
        ([1, None, 2.5], "object", "number"),
        ([0, 1], "Sparse[int]", "number"),
        ([1, None], "category", "number"),
        ([True], "bool", "boolean"),
        ([True, None], "boolean", "boolean"),
        ([True, None], "object", "boolean"),
        ([True], pd.ArrowDtype(pa.bool_()), "boolean"),
        ([True, False], "category", "boolean"),
        (["a", None], "str", "text"),
        (["a", None], "object", "text"),
        (["a", None], "category", "text"),
        (["a", None], pd.ArrowDtype(pa.string()), "text"),
        (["a"], pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string())), "text"),
    ],
)
def test_a_column_is_what_its_values_are(values: list[Any], dtype: Any, kind: str) -> None:
    assert column_kind(pd.Series(values, dtype=dtype, name="c")) == kind


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.Series(pd.to_datetime(["2020-01-01"])), "dates or times"),
        (pd.Series(pd.to_datetime(["2020-01-01"], utc=True)), "dates or times"),
        (pd.Series([dt.date(2020, 1, 1)]), "dates or times"),
        (pd.Series([1], dtype=pd.ArrowDtype(pa.timestamp("s"))), "dates or times"),
        (pd.Series(pd.to_timedelta([1])), "durations"),
        (pd.Series(pd.period_range("2020", periods=1)), "periods or intervals"),
        (pd.Series(pd.cut([1, 2, 3], 2)), "periods or intervals"),
        (pd.Series([1j]), "complex"),
        (pd.Series([decimal.Decimal(1)]), "decimal"),
        (pd.Series([b"a"]), "raw bytes"),
        (pd.Series([[1], [2]]), "nested"),
        (pd.Series([{"a": 1}]), "nested"),
        (pd.Series([[1]], dtype=pd.ArrowDtype(pa.list_(pa.int64()))), "nested"),
        (pd.Series([None, None], dtype=object), "no value at all"),
        (pd.Series([1, "a"]), "mixed types"),
        (pd.Series([True, 1], dtype=object), "mixed types"),
        (pd.Series(["a", True], dtype=object), "mixed types"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_column_of_any_other_kind_is_refused_by_name(column: Any, words: str) -> None:
    # V1
    with pytest.raises(InvalidInput, match=f"^column 'c' holds .*{words}") as caught:
        column_kind(column.rename("c"))
    assert caught.value.field == "c"
    assert caught.value.hint


def test_numbers_hold_nan_where_a_value_is_missing() -> None:
    for dtype in ("Int64", "Float32", "object", "category", pd.ArrowDtype(pa.int64())):
        values = numbers(pd.Series([1, None], dtype=dtype))
        assert values.dtype == np.float64
        assert values[0] == 1
        assert np.isnan(values[1])


def test_numbers_beyond_float64_and_text_are_refused() -> None:
    with pytest.raises(InvalidInput, match="too large"):
        numbers(pd.Series([10**400], name="c", dtype=object))
    with pytest.raises(InvalidInput, match="holds text"):
        numbers(pd.Series(["1"], name="c"))


@pytest.mark.parametrize(("library", "name"), [("pandas", "s.csv"), ("pyarrow", "s.parquet"), ("pyarrow", "s.arrow")])
def test_a_missing_library_is_named_with_the_extra(
    library: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"a\n1\n")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(FailedPrecondition, match=library) as caught:
        read_sample(tmp_path / name)
    assert caught.value.hint == 'pip install "keelway[data]"'


ROWS = st.fixed_dictionaries(
    {"number": st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False), "text": st.text()}
)


@given(records=st.lists(ROWS, min_size=1, max_size=5), suffix=st.sampled_from([".json", ".jsonl"]))
def test_records_come_back_as_written(
    records: list[dict[str, Any]], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"records{suffix}"
    path.write_text(json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records)))
    frame = read_sample(path)
    assert frame["text"].tolist() == [row["text"] for row in records]
    assert frame["number"].tolist() == [row["number"] for row in records]
