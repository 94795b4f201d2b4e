"""A binary request behind a header that was read before is read as if it had come first. # R1 R3"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keelway.codecs.binary import encode_tensor
from keelway.codecs.json import OpenInferenceCodec
from keelway.errors import InvalidInput, KeelwayError
from keelway.types import NUMPY_DTYPES, TensorRequest

#: Those of which not all bytes are right, as often as all others.
DATATYPES = st.sampled_from(["BOOL", "BYTES"]) | st.sampled_from(sorted(NUMPY_DTYPES))
SHAPES = st.lists(st.integers(0, 3), max_size=3)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """An input of a header, and how many bytes of it follow: mostly as many as it says."""
    datatype, shape = draw(DATATYPES), draw(SHAPES)
    described: dict[str, Any] = {"name": draw(st.sampled_from("abc")), "datatype": datatype, "shape": shape}
    count = int(np.prod(shape))
    if draw(st.integers(0, 5)) == 0:
        text = datatype == "BYTES"
        return described | {"data": ["a" if text else datatype == "BOOL" or 1] * count}, 0
    size = 5 * count if datatype == "BYTES" else count * NUMPY_DTYPES[datatype].itemsize
    parameters: dict[str, Any] = {"binary_data_size": size}
    if draw(st.integers(0, 5)) == 0:
        parameters["content_type"] = "base64"
    return described | {"parameters": parameters}, size


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A header, and several things that may follow it."""
    described = draw(st.lists(inputs(), min_size=1, max_size=3))
    document: dict[str, Any] = {"inputs": [one for one, _ in described]}
    if draw(st.booleans()):
        document["id"] = draw(st.text(max_size=4))
    if draw(st.booleans()):
        document |= {"outputs": [{"name": "y"}], "parameters": {"binary_data_output": True}}
    size = sum(size for _, size in described)
    texts = b"".join(
        b"\1\0\0\0z" * (size // 5) if one["datatype"] == "BYTES" else bytes([draw(st.integers(0, 1))]) * size
        for one, size in described
    )
    return json.dumps(document).encode(), [texts, draw(st.binary(min_size=size, max_size=size)), texts[:-1], texts]


def read(codec: OpenInferenceCodec, head: bytes, tail: bytes) -> Any:
    """What ``codec`` makes of it, comparable."""
    try:
        request = codec.parse(head + tail, len(head))
    except KeelwayError as error:
        return type(error), error.message, getattr(error, "field", None)
    assert isinstance(request, TensorRequest)
    tensors = [
        (wire.name, wire.datatype, wire.shape, wire.data.dtype, wire.data.shape, encode_tensor(wire.data))
        for wire in request.inputs
    ]
    return tensors, list(request.outputs), request.id, request.binary_outputs


@given(st.lists(bodies(), min_size=1, max_size=3))
def test_what_was_read_before_changes_nothing(sent: list[tuple[bytes, list[bytes]]]) -> None:
    codec = OpenInferenceCodec()
    for _ in range(2):
        for head, tails in sent:
            for tail in tails:
                assert read(codec, head, tail) == read(OpenInferenceCodec(), head, tail)


def test_numbers_that_lie_across_the_boundaries_of_the_machine_are_moved() -> None:
    codec, values = OpenInferenceCodec(), np.arange(6, dtype="<f8")
    for padding in range(9):
        head = json.dumps(
            {
                "id": "x" * padding,
                "inputs": [{"name": "x", "datatype": "FP64", "shape": [2, 3], "parameters": {"binary_data_size": 48}}],
            }
        ).encode()
        for _ in range(2):
            request = codec.parse(head + values.tobytes(), len(head))
            assert isinstance(request, TensorRequest)
            (wire,) = request.inputs
            assert wire.data.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert wire.data.flags.aligned


def test_only_so_many_headers_and_none_that_is_long_are_remembered() -> None:
    codec = OpenInferenceCodec()
    for number in range(2000):
        described = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
        head = json.dumps({"id": "y" * 3000 if number % 2 else str(number), "inputs": [described]}).encode()
        codec.parse(head + bytes(4), len(head))
    assert 0 < len(codec._layouts) <= 512
    assert max(map(len, codec._layouts)) < 2048


def test_a_header_whose_bytes_are_not_right_is_not_remembered() -> None:
    codec = OpenInferenceCodec()
    described = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 4}}
    head = json.dumps({"inputs": [described]}).encode()
    for _ in range(2):
        assert read(codec, head, bytes(4))[0] is InvalidInput
    assert not codec._layouts
