"""Raw tensors: what was encoded is decoded, and bytes that do not make the stated tensor are refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keelway.codecs.binary import decode_tensor, encode_tensor, split_body
from keelway.errors import InvalidInput, MalformedRequest
from keelway.types import NUMPY_DTYPES, datatype_of

FIXED = sorted(set(NUMPY_DTYPES) - {"BYTES"})


@pytest.mark.parametrize("datatype", FIXED)
@given(st.data())
def test_numbers_and_booleans_come_back_bit_by_bit(datatype: str, data: st.DataObject) -> None:
    # R1
    array: Any = data.draw(npst.arrays(NUMPY_DTYPES[datatype], npst.array_shapes(min_dims=0, min_side=0, max_dims=4)))
    raw = encode_tensor(array)
    assert raw == array.tobytes()
    back = decode_tensor(memoryview(raw), datatype, array.shape, "x")
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == raw


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_bytes_come_back_element_by_element(elements: list[bytes]) -> None:
    # R1
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    raw = encode_tensor(array)
    assert raw == b"".join(struct.pack("<I", len(element)) + element for element in elements)
    assert decode_tensor(memoryview(raw), "BYTES", (len(elements),), "x").tolist() == elements


def test_what_a_model_answers_is_written_row_major_and_little_endian() -> None:
    # R1
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    assert encode_tensor(array) == np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes()


@pytest.mark.parametrize(
    "array", [np.array(["ü", ""]), np.array(["ü", ""], object), np.array(["ü".encode(), b""], object)]
)
def test_texts_of_any_kind_are_written_as_utf8(array: Any) -> None:
    assert encode_tensor(array) == b"\2\0\0\0\xc3\xbc\0\0\0\0"


@pytest.mark.parametrize("datatype", FIXED)
def test_a_truncated_or_longer_tensor_is_refused(datatype: str) -> None:
    # R1
    size = NUMPY_DTYPES[datatype].itemsize
    for wrong in (0, 2 * size - 1, 2 * size + 1, 3 * size):
        with pytest.raises(InvalidInput, match=f"input 'x': {wrong} bytes do not make a {datatype}") as refused:
            decode_tensor(memoryview(bytes(wrong)), datatype, (2,), "x")
        assert refused.value.field == "x"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\1\0\0",
        b"\1\0\0\0",
        b"\1\0\0\0a",
        b"\1\0\0\0a\1\0\0\0",
        b"\1\0\0\0a\1\0\0\0b\0",
        b"\1\0\0\0a\1\0\0\0b\0\0\0\0",
        b"\1\0\0\0a\xff\xff\xff\xffb",
    ],
    ids=["empty", "half a length", "no element", "one", "two lengths", "trailing byte", "three", "length that lies"],
)
def test_bytes_that_do_not_make_the_stated_count_are_refused(raw: bytes) -> None:
    # R1
    with pytest.raises(InvalidInput, match="input 'x': the bytes do not make 2 BYTES elements"):
        decode_tensor(memoryview(raw), "BYTES", (2,), "x")


def test_a_count_beyond_all_memory_is_refused_before_anything_is_allocated() -> None:
    # R3
    with pytest.raises(InvalidInput, match="do not make"):
        decode_tensor(memoryview(b""), "BYTES", (2**40, 2**20), "x")
    with pytest.raises(InvalidInput, match="do not make"):
        decode_tensor(memoryview(b""), "FP32", (2**40, 2**20), "x")


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_an_empty_tensor_with_a_dimension_beyond_numpy_is_refused(datatype: str) -> None:
    # R3: NumPy raises for it although there is not one element.
    for shape in ((0, 2**70), (0, 2**62, 2**62)):
        with pytest.raises(InvalidInput, match="input 'x': a dimension of the shape is too large"):
            decode_tensor(memoryview(b""), datatype, shape, "x")


def test_a_boolean_is_one_byte_of_0_or_1() -> None:
    # V1: any other byte would be a boolean that is neither true nor false.
    assert decode_tensor(memoryview(b"\0\1"), "BOOL", (2,), "x").tolist() == [False, True]
    with pytest.raises(InvalidInput, match="one byte, 0 or 1"):
        decode_tensor(memoryview(b"\0\2"), "BOOL", (2,), "x")


def test_an_unknown_datatype_is_refused() -> None:
    with pytest.raises(InvalidInput, match="unknown datatype"):
        decode_tensor(memoryview(b"\0\0"), "BF16", (1,), "x")


def test_the_body_is_split_behind_its_header() -> None:
    head, tail = split_body(b"{}abc", 2)
    assert (head, bytes(tail)) == (b"{}", b"abc")
    assert bytes(split_body(b"{}", 2)[1]) == b""


@pytest.mark.parametrize("length", [3, 2**40, -1])
def test_a_header_length_that_lies_is_refused(length: int) -> None:
    # R1
    with pytest.raises(MalformedRequest, match="Inference-Header-Content-Length is larger than the body"):
        split_body(b"{}", length)


def test_every_datatype_has_its_dtype_and_back() -> None:
    assert {datatype: datatype_of(dtype) for datatype, dtype in NUMPY_DTYPES.items()} == {
        datatype: datatype for datatype in NUMPY_DTYPES
    }
    assert datatype_of(np.dtype(">f4")) == "FP32"
    assert datatype_of(np.dtype("U3")) == datatype_of(np.dtype("S3")) == "BYTES"
    with pytest.raises(KeyError):
        datatype_of(np.dtype("c8"))
