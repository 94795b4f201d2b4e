"""What is kept under a key, and its form in a store that may hold anything."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keelway.cache.entries import DETERMINISTIC, Entry, _checksum, answered, from_bytes, refused, to_bytes
from keelway.errors import (
    DeadlineExceeded,
    ErrorCode,
    FailedPrecondition,
    InvalidInput,
    KeelwayError,
    ModelFailed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RowsRefused,
    Unavailable,
    Unsupported,
)
from keelway.types import NUMPY_DTYPES, Array

KEY = bytes(range(32))


def made(*outputs: Any, cost: float = 0.25) -> Entry:
    entry = answered(list(outputs), len(outputs), cost)
    assert entry is not None
    return entry


def texts(values: list[Any]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def same(one: Array, other: Array) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.tolist() == other.tolist() if one.dtype.kind == "O" else one.tobytes() == other.tobytes()


SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
NUMBERS = st.sampled_from([dtype for dtype in NUMPY_DTYPES.values() if dtype.kind != "O"]).flatmap(
    lambda dtype: arrays.arrays(dtype, SHAPES)
)
TEXTS = st.lists(st.none() | st.text() | st.binary(), max_size=5).map(texts)


@given(st.lists(NUMBERS | TEXTS, max_size=4), st.floats(0, 1e6))
def test_outputs_come_back_from_a_store_bit_by_bit(outputs: list[Array], cost: float) -> None:
    # A2
    entry = made(*outputs, cost=cost)
    back = from_bytes(to_bytes(entry, KEY), KEY, len(outputs))
    assert back is not None
    assert (back.cost, back.refusal) == (cost, None)
    assert all(same(one, other) for one, other in zip(outputs, back.result(), strict=True))
    assert all(not array.flags.writeable for array in back.result())


def test_an_entry_is_a_copy_that_nobody_may_write_to() -> None:
    # A2: a runtime goes on using its buffers, and a row of a batch would keep the whole batch.
    batch = np.arange(6.0)
    entry = made(batch[2:4])
    batch[:] = 0
    (kept,) = entry.result()
    assert kept.tolist() == [2.0, 3.0]
    assert kept.base is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1


@pytest.mark.parametrize(
    "array", [np.array(["a", "bc"]), np.array([b"a", b"bc"]), texts([np.str_("a"), np.bytes_(b"x")])]
)
def test_texts_of_any_kind_come_back_as_plain_ones(array: Array) -> None:
    # A2
    back = from_bytes(to_bytes(made(array), KEY), KEY, 1)
    assert back is not None
    (found,) = back.result()
    assert found.tolist() == array.tolist()
    assert {type(element) for element in found.tolist()} <= {str, bytes}


@pytest.mark.parametrize(
    "outputs",
    [
        [np.zeros(1), np.zeros(1)],
        [],
        [[1.0]],
        [None],
        [np.array([{"a": 1}])],
        [np.array([object()])],
        [np.array([1 + 2j])],
        [np.array(["2026-01-01"], "datetime64[D]")],
        [np.ma.masked_array([1.0], [True])],
        np.zeros((1, 1)),
        object(),
    ],
    ids=["two", "none", "a list", "null", "dict", "object", "complex", "date", "masked", "one array", "nothing"],
)
def test_what_is_not_the_wanted_arrays_is_not_kept(outputs: Any) -> None:
    # A2
    assert answered(outputs, 1, 0.0) is None


def test_the_order_of_bytes_of_the_machine_that_answered_does_not_travel() -> None:
    # A2
    (kept,) = made(np.array([1.5, 2.5], ">f4")).result()
    assert kept.dtype == np.dtype("<f4")
    assert kept.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("error", [InvalidInput, PayloadTooLarge, Unsupported])
def test_an_error_that_every_such_request_meets_is_kept_without_its_traceback(error: type[KeelwayError]) -> None:
    # A2
    first = error("no", field="age", hint="say how old")
    entry = refused(first, 0.5)
    assert entry is not None
    back = from_bytes(to_bytes(entry, KEY), KEY, 3)
    for kept in (entry, back):
        assert kept is not None
        with pytest.raises(error, match="no") as caught:
            kept.result()
        assert caught.value is not first
        assert (caught.value.field, caught.value.hint) == ("age", "say how old")


def test_refused_rows_are_kept_row_by_row() -> None:
    # A2 R2: others of the request can still be answered.
    first = RowsRefused.of(
        {3: InvalidInput("no", field="age"), 1: InvalidInput("neither", field="city", hint="write it")}
    )
    entry = refused(first, 0.5)
    assert entry is not None
    back = from_bytes(to_bytes(entry, KEY), KEY, 1)
    for kept in (entry, back):
        assert kept is not None
        with pytest.raises(RowsRefused, match="row 1: neither") as caught:
            kept.result()
        found = {row: (one.message, one.field, one.hint) for row, one in caught.value.errors.items()}
        assert found == {3: ("no", "age", None), 1: ("neither", "city", "write it")}
    assert entry.size > refused(InvalidInput("no"), 0.5).size  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "error",
    [
        ModelFailed("no"),
        Unavailable("no"),
        Overloaded("no"),
        DeadlineExceeded("no"),
        NotFound("no"),
        FailedPrecondition("no"),
        ValueError("no"),
        InvalidInput("later", retry_after=1.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_may_pass_is_not_kept(error: Exception) -> None:
    # A2
    assert refused(error, 0.0) is None


def test_each_deterministic_code_comes_back_as_an_error_of_that_code() -> None:
    # A2
    assert {kind("no").code: kind for kind in DETERMINISTIC.values()} == DETERMINISTIC
    assert not any(code.retryable for code in DETERMINISTIC)


GOOD = to_bytes(made(np.array([1.0, 2.0], np.float32)), KEY)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_entry(data: bytes) -> None:
    # A2
    assert from_bytes(data, KEY, 1) is None


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_an_entry_with_one_byte_changed_is_none(at: int, by: int) -> None:
    # A2
    damaged = bytearray(GOOD)
    damaged[at] ^= by
    assert from_bytes(bytes(damaged), KEY, 1) is None


@given(st.integers(0, len(GOOD) - 1))
def test_an_entry_cut_short_is_none(length: int) -> None:
    # A2
    assert from_bytes(GOOD[:length], KEY, 1) is None


def test_an_entry_of_another_key_or_for_other_outputs_is_none() -> None:
    # A2
    assert from_bytes(GOOD, KEY, 1) is not None
    assert from_bytes(GOOD, bytes(32), 1) is None
    assert from_bytes(GOOD, KEY, 2) is None


@pytest.mark.parametrize(
    "document",
    [
        [2, 0.1, [["FP32", [1], b"\0\0\0\0"]], None],
        [1, -1.0, [["FP32", [1], b"\0\0\0\0"]], None],
        [1, 0.1, [["FP32", [2], b"\0\0\0\0"]], None],
        [1, 0.1, [["FP32", [-1], b"\0\0\0\0"]], None],
        [1, 0.1, [["FP31", [1], b"\0\0\0\0"]], None],
        [1, 0.1, [["BYTES", [1], b"\0\0\0\0"]], None],
        [1, 0.1, [["FP32", [1], ["a"]]], None],
        [1, 0.1, [["FP32", [1] * 64, b"\0\0\0\0"]], None],
        [1, 0.1, [["FP32", [1], b"\0\0\0\0"]], None, "more"],
        [1, 0.1, [], ["INTERNAL", "no", None, None]],
        [1, 0.1, [], ["WHATEVER", "no", None, None]],
        [1, 0.1, [["FP32", [1], b"\0\0\0\0"]], ["INVALID_ARGUMENT", "no", None, None]],
        {"form": 1},
        7,
    ],
    ids=range(14),
)
def test_a_document_of_another_form_is_no_entry_although_its_checksum_is_right(document: Any) -> None:
    # A2
    body = msgspec.msgpack.encode(document)
    assert from_bytes(_checksum(KEY, body) + body, KEY, 1) is None


def test_nothing_is_unpickled() -> None:
    # A2
    body = pickle.dumps(made(np.zeros(1)).outputs)
    assert from_bytes(_checksum(KEY, body) + body, KEY, 1) is None
    assert ErrorCode.INTERNAL not in DETERMINISTIC
