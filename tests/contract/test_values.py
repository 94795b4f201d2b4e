"""JSON values become arrays strictly: exactly what was written, or an error that names the field and not the value."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keelway.contract.values import MAX_AXES, base64_bytes, check_scalar, flatten, float_array, numpy_dtype, to_array
from keelway.errors import InvalidInput
from keelway.types import NUMPY_DTYPES

INTEGERS = ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
FLOATS = ["FP16", "FP32", "FP64"]
NUMBERS = INTEGERS + FLOATS

#: What a caller might send, none of which may ever be repeated to anybody.
SECRET_TEXT = "sentinel-4711"
SECRET_NUMBER = 918273645546372819


def test_an_unknown_datatype_is_refused_by_the_name_of_the_input() -> None:
    # R1
    with pytest.raises(InvalidInput, match="input 'x': unknown datatype; one of BOOL") as refused:
        numpy_dtype("FP8", "x")
    assert refused.value.field == "x"


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_fit_their_datatype_to_the_last_one(datatype: str) -> None:
    # V1
    limits = np.iinfo(NUMPY_DTYPES[datatype])
    array = to_array([limits.min, 0, limits.max], datatype, "x")
    assert array.dtype == NUMPY_DTYPES[datatype]
    assert array.tolist() == [limits.min, 0, limits.max]
    for beyond in (limits.min - 1, limits.max + 1, 10**30, -(10**30)):
        with pytest.raises(InvalidInput, match=f"'x' holds a number out of the range of {datatype}"):
            to_array([0, beyond], datatype, "x")


@pytest.mark.parametrize(
    ("datatype", "largest", "beyond"),
    [("FP16", 65_504.0, 65_520.0), ("FP32", 3.4028234663852886e38, 3.5e38), ("FP64", 1.7976931348623157e308, 10**309)],
)
def test_a_float_that_does_not_fit_is_refused_and_not_made_infinite(
    datatype: str, largest: float, beyond: float
) -> None:
    # V1
    assert to_array([largest, -largest], datatype, "x").tolist() == [largest, -largest]
    for value in (beyond, -beyond):
        with pytest.raises(InvalidInput, match=f"'x' holds a number too large for {datatype}"):
            to_array([1.0, value], datatype, "x")


def test_the_typed_fast_path_leaves_only_float32_overflow_to_validation() -> None:
    # V1: validation refuses infinities for every model, nullable or not.
    assert float_array([1.5, 1e39, -1e39], "FP32", "x").tolist() == [1.5, math.inf, -math.inf]
    for datatype, beyond in (("FP16", 65_520.0), ("FP16", 1e39)):
        with pytest.raises(InvalidInput, match=f"too large for {datatype}"):
            float_array([1.5, beyond], datatype, "x")


@pytest.mark.parametrize("datatype", FLOATS)
@given(st.lists(st.floats(-60_000, 60_000), max_size=5))
def test_both_ways_to_floats_agree(datatype: str, values: list[float]) -> None:
    fast, careful = float_array(values, datatype, "x"), to_array(values, datatype, "x")
    assert fast.dtype == careful.dtype == NUMPY_DTYPES[datatype]
    assert fast.tolist() == careful.tolist() == np.array(values, NUMPY_DTYPES[datatype]).tolist()


@pytest.mark.parametrize(
    ("datatype", "value", "word"),
    [
        *[(datatype, True, "a boolean") for datatype in NUMBERS],
        *[(datatype, "1", "text") for datatype in [*NUMBERS, "BOOL"]],
        *[(datatype, None, "null") for datatype in [*INTEGERS, "BOOL"]],
        *[(datatype, 1.0, "a number with a fraction or exponent") for datatype in [*INTEGERS]],
        ("BOOL", 1, "a number"),
        ("BYTES", 1, "a number"),
        ("BYTES", False, "a boolean"),
        ("FP32", [1], "a list"),
        ("BYTES", {"a": 1}, "an object"),
        ("FP32", object(), "an unknown kind of value"),
    ],
)
def test_another_kind_of_value_is_refused_in_words(datatype: str, value: Any, word: str) -> None:
    # V1: a boolean is no number, a text is no number, and 1.0 is no integer.
    with pytest.raises(InvalidInput, match=f"'x' holds {word}, which is no {datatype}$"):
        to_array([value], datatype, "x")


def test_null_is_nan_among_floats_and_stays_none_among_texts() -> None:
    # V1
    for datatype in FLOATS:
        array = to_array([1, None, 2.5], datatype, "x")
        assert array.dtype == NUMPY_DTYPES[datatype]
        assert [array[0], array[2]] == [1.0, 2.5]
        assert np.isnan(array[1])
    assert to_array(["a", None, b"\xff"], "BYTES", "x").tolist() == ["a", None, b"\xff"]


def test_texts_stay_one_object_each_whatever_their_lengths() -> None:
    array = to_array(["", "ab", "a" * 1000], "BYTES", "x")
    assert (array.dtype, array.shape) == (np.dtype(object), (3,))


@given(npst.arrays(np.int64, npst.array_shapes(min_dims=1, max_dims=5, max_side=4), elements=st.integers(-9, 9)))
def test_a_nested_list_flattens_to_its_elements_and_shape(array: Any) -> None:
    scalars, shape = flatten(array.tolist(), "x")
    assert shape == array.shape
    assert list(scalars) == array.ravel().tolist()


@pytest.mark.parametrize("values", [[[1], [1, 2]], [[[1]], [[1], [2]]], [[], [1]]])
def test_a_ragged_list_is_refused(values: list[Any]) -> None:
    # R1
    with pytest.raises(InvalidInput, match="'x' is ragged"):
        flatten(values, "x")


@pytest.mark.parametrize("values", [[1, [1]], [[1], 1], [[[1], 2]], [[None], None], [{}, []]])
def test_values_beside_lists_are_refused(values: list[Any]) -> None:
    # R1
    with pytest.raises(InvalidInput, match="'x' mixes values and lists at one level"):
        flatten(values, "x")


def test_empty_lists_keep_their_shape() -> None:
    assert flatten([], "x") == ([], (0,))
    assert flatten([[], []], "x") == ([], (2, 0))


def test_more_axes_than_an_array_can_have_are_refused() -> None:
    # R3: NumPy itself would raise, and a caller's nesting is no server error.
    nested: Any = 1
    for _ in range(MAX_AXES):
        nested = [nested]
    assert flatten(nested, "x") == ([1], (1,) * MAX_AXES)
    with pytest.raises(InvalidInput, match=f"'x' nests deeper than {MAX_AXES} lists"):
        flatten([nested], "x")


@pytest.mark.parametrize(
    ("value", "datatype", "nullable", "message"),
    [
        (None, "FP32", False, "'x' is missing and may not be"),
        (True, "FP32", True, "'x' must be a number, not a boolean"),
        ("1", "INT64", False, "'x' must be a number, not text"),
        ([1], "FP32", False, "'x' must be a number, not a list"),
        ({}, "FP32", False, "'x' must be a number, not an object"),
        (1, "BOOL", False, "'x' must be a boolean, not a number"),
        (1.5, "BYTES", True, "'x' must be text, not a number"),
        (1.5, "INT64", False, "'x' holds a number with a fraction or exponent, which is no INT64"),
        (256, "UINT8", False, "'x' holds a number out of the range of UINT8"),
        (1e39, "FP32", True, "'x' holds a number too large for FP32"),
    ],
)
def test_one_value_of_a_row_is_refused_with_both_kinds(value: Any, datatype: str, nullable: bool, message: str) -> None:
    # R2 V1
    with pytest.raises(InvalidInput) as refused:
        check_scalar(value, datatype, nullable, "x")
    assert (refused.value.message, refused.value.field) == (message, "x")


@pytest.mark.parametrize(
    ("value", "datatype"),
    [(None, "FP32"), (1, "FP32"), (1.5, "FP64"), (True, "BOOL"), ("", "BYTES"), (b"", "BYTES"), (None, "BYTES")],
)
def test_one_value_that_fits_passes(value: Any, datatype: str) -> None:
    check_scalar(value, datatype, nullable=True, field="x")


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.just(SECRET_TEXT)
    | st.sampled_from([SECRET_NUMBER, SECRET_NUMBER * 10**400, float(SECRET_NUMBER) * 1e280, -SECRET_NUMBER])
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just(SECRET_TEXT), inner, max_size=1),
    max_leaves=6,
)


@given(st.lists(JSON_VALUES, max_size=4), st.sampled_from(sorted(NUMPY_DTYPES)))
@example([SECRET_NUMBER * 10**400], "FP64")
def test_any_values_become_an_array_or_an_error_that_does_not_quote_them(values: list[Any], datatype: str) -> None:
    # R3
    try:
        scalars, shape = flatten(values, "x")
        array = to_array(scalars, datatype, "x")
    except InvalidInput as error:
        refusal: InvalidInput | None = error
    else:
        refusal = None
    if refusal is not None:
        text = f"{refusal.message} {refusal.hint}"
        assert SECRET_TEXT not in text
        assert str(SECRET_NUMBER)[:9] not in text
        assert refusal.field == "x"
        return
    assert array.dtype == NUMPY_DTYPES[datatype]
    assert len(array) == math.prod(shape)
    assert datatype not in FLOATS or not np.isinf(array).any()


@given(st.binary(max_size=100))
def test_base64_is_read_back_from_text_and_bytes_and_nothing_else_is(data: bytes) -> None:
    encoded = base64.b64encode(data)
    assert base64_bytes(encoded) == base64_bytes(encoded.decode()) == data
    for wrong in (encoded + b"=", encoded + b"\n", b"-" + encoded, encoded[:-1] or b"A", None, 7, [encoded]):
        assert base64_bytes(wrong) is None
