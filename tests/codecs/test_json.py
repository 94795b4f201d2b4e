"""Requests of the Open Inference Protocol V2: data flat, nested and binary, and every way they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keelway.codecs.binary import encode_tensor
from keelway.codecs.json import OpenInferenceCodec
from keelway.errors import InvalidInput, MalformedRequest, Unsupported
from keelway.types import NUMPY_DTYPES, RequestedOutput, TensorRequest, WireTensor

CODEC = OpenInferenceCodec()

#: Datatype -> JSON values that bear it, and what they become.
SAMPLES: Mapping[str, tuple[list[Any], list[Any]]] = {
    "BOOL": ([True, False, True, False], [True, False, True, False]),
    "UINT8": ([0, 1, 2, 255], [0, 1, 2, 255]),
    "UINT16": ([0, 1, 2, 65_535], [0, 1, 2, 65_535]),
    "UINT32": ([0, 1, 2, 2**32 - 1], [0, 1, 2, 2**32 - 1]),
    "UINT64": ([0, 1, 2**53 + 1, 2**64 - 1], [0, 1, 2**53 + 1, 2**64 - 1]),
    "INT8": ([-128, 0, 1, 127], [-128, 0, 1, 127]),
    "INT16": ([-32_768, 0, 1, 32_767], [-32_768, 0, 1, 32_767]),
    "INT32": ([-(2**31), 0, 1, 2**31 - 1], [-(2**31), 0, 1, 2**31 - 1]),
    "INT64": ([-(2**63), 0, 2**53 + 1, 2**63 - 1], [-(2**63), 0, 2**53 + 1, 2**63 - 1]),
    "FP16": ([0.5, 1, -2.5, 65_504], [0.5, 1.0, -2.5, 65_504.0]),
    "FP32": ([0.5, 1, -2.5, 1e38], [0.5, 1.0, -2.5, float(np.float32(1e38))]),
    "FP64": ([0.1, 1, -2.5, 1e308], [0.1, 1.0, -2.5, 1e308]),
    "BYTES": (["", "ü", "a\n[", '"'], ["", "ü", "a\n[", '"']),
}


def body(*inputs: Mapping[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": inputs, **rest}).encode()


def tensor(data: Any, shape: Sequence[int], datatype: str = "FP32", name: str = "x", **rest: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data, **rest}


def parse(content: bytes, header_length: int | None = None) -> TensorRequest:
    request = CODEC.parse(content, header_length)
    assert isinstance(request, TensorRequest)
    return request


def only(request: TensorRequest) -> WireTensor:
    (wire,) = request.inputs
    return wire


def with_tail(head: Mapping[str, Any], *tails: bytes) -> tuple[bytes, int]:
    encoded = json.dumps(head).encode()
    return b"".join((encoded, *tails)), len(encoded)


# Requests in JSON


def test_every_datatype_has_a_sample() -> None:
    assert set(SAMPLES) == set(NUMPY_DTYPES)


@pytest.mark.parametrize("datatype", sorted(NUMPY_DTYPES))
@pytest.mark.parametrize("nested", [False, True])
def test_flat_and_nested_data_give_the_same_array(datatype: str, nested: bool) -> None:
    # R1
    sent, expected = SAMPLES[datatype]
    data = [sent[:2], sent[2:]] if nested else sent
    wire = only(parse(body(tensor(data, (2, 2), datatype))))
    assert (wire.name, wire.datatype, wire.shape) == ("x", datatype, (2, 2))
    assert (wire.data.dtype, wire.data.shape) == (NUMPY_DTYPES[datatype], (2, 2))
    assert wire.data.ravel().tolist() == expected


@given(st.data(), st.sampled_from(sorted(set(NUMPY_DTYPES) - {"BYTES"})), st.booleans())
def test_a_random_tensor_survives_json(data: st.DataObject, datatype: str, nested: bool) -> None:
    # R1
    elements = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None
    array: Any = data.draw(npst.arrays(NUMPY_DTYPES[datatype], npst.array_shapes(max_dims=4), elements=elements))
    values = array.tolist() if nested else array.ravel().tolist()
    wire = only(parse(body(tensor(values, array.shape, datatype))))
    assert (wire.data.dtype, wire.shape) == (array.dtype, array.shape)
    assert wire.data.tobytes() == array.tobytes()


def test_a_scalar_has_an_empty_shape_and_an_empty_tensor_no_data() -> None:
    assert only(parse(body(tensor([1.5], ())))).data.shape == ()
    assert only(parse(body(tensor([], (0, 3))))).data.shape == (0, 3)


def test_several_inputs_of_several_datatypes_keep_their_order() -> None:
    # R1
    request = parse(body(tensor([1.5], [1]), tensor(["a"], [1], "BYTES", "t"), tensor([True], [1], "BOOL", "b")))
    assert [(wire.name, wire.datatype, wire.data.tolist()) for wire in request.inputs] == [
        ("x", "FP32", [1.5]),
        ("t", "BYTES", ["a"]),
        ("b", "BOOL", [True]),
    ]


def test_null_is_a_missing_number_or_text_until_validation() -> None:
    # V1
    assert np.isnan(only(parse(body(tensor([1, None], [2])))).data).tolist() == [False, True]
    assert only(parse(body(tensor(["a", None], [2], "BYTES")))).data.tolist() == ["a", None]


def test_id_outputs_and_their_form_are_read() -> None:
    # R1
    outputs = [
        {"name": "a"},
        {"name": "b", "parameters": {"binary_data": True}},
        {"name": "c", "parameters": {"binary_data": False}},
    ]
    request = parse(body(tensor([1], [1]), id="r 7", outputs=outputs))
    assert request.id == "r 7"
    assert list(request.outputs) == [RequestedOutput("a"), RequestedOutput("b", True), RequestedOutput("c")]
    request = parse(body(tensor([1], [1]), outputs=outputs, parameters={"binary_data_output": True}))
    assert [output.binary for output in request.outputs] == [True, True, False]
    assert request.binary_outputs


def test_absent_outputs_ask_for_all() -> None:
    # R1
    for absent in ({}, {"outputs": []}):
        assert list(parse(body(tensor([1], [1]), **absent)).outputs) == []


def test_unknown_members_and_parameters_are_ignored_as_the_protocol_says() -> None:
    content = body(tensor([1], [1], parameters={"content_type": "np"}), parameters={"priority": 1}, extra=[{}])
    assert only(parse(content)).data.tolist() == [1.0]


# Requests that are wrong


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the body is not valid JSON"),
        (b"{", "the body is not valid JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs": 1}', "Expected `array`, got `int` - at `$.inputs`"),
        (b'{"inputs": [{"shape": [1], "datatype": "FP32", "data": [1]}]}', "missing required field `name`"),
        (b'{"inputs": [{"name": "x", "shape": 1, "datatype": "FP32", "data": [1]}]}', "at `$.inputs[0].shape`"),
        (b'{"inputs": [{"name": "x", "shape": [1.5], "datatype": "FP32", "data": [1]}]}', "$.inputs[0].shape"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": 1, "data": [1]}]}', "$.inputs[0].datatype"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": {"0": 1}}]}', "$.inputs[0].data"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}', "not valid JSON"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [Infinity]}]}', "not valid JSON"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1e999]}]}', "Number out of range"),
        (b'{"inputs": [{"name": "\xff", "shape": [1], "datatype": "FP32", "data": [1]}]}', "not valid JSON"),
        (b'{"inputs": [{"name": "\\ud800", "shape": [1], "datatype": "FP32", "data": [1]}]}', "not valid JSON"),
        (b'{"inputs": [], "id": 7}', "Expected `str`, got `int` - at `$.id`"),
        (b'{"inputs": [], "outputs": [{}]}', "missing required field `name` - at `$.outputs[0]`"),
    ],
)
def test_what_is_no_request_is_malformed_and_says_where(content: bytes, message: str) -> None:
    # R1 R3
    with pytest.raises(MalformedRequest) as refused:
        parse(content)
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (tensor([1, 2], (3,)), "input 'x': 2 values do not make the shape it states"),
        (tensor([1, 2], ()), "input 'x': 2 values do not make the shape it states"),
        (tensor([1, 2, 3, 4], (2,)), "input 'x': 4 values do not make the shape it states"),
        (tensor([[1, 2], [3]], (3,)), "'x' is ragged: lists at one level differ in length"),
        (tensor([1, [2]], (2,)), "'x' mixes values and lists at one level"),
        (tensor([[1, 2], [3, 4], [5, 6]], (2, 3)), "input 'x': nested data has shape [3, 2]"),
        (tensor([[1, 2]], (2,)), "input 'x': nested data has shape [1, 2]"),
        (tensor([1], (-1,)), "input 'x': a dimension of the shape is negative"),
        (tensor([1, 2, 3, 4], (-2, -2)), "input 'x': a dimension of the shape is negative"),
        (tensor([], (0, 2**70)), "input 'x': a dimension of the shape is too large"),
        (tensor([1], (1,), "FP8"), "input 'x': unknown datatype; one of " + ", ".join(NUMPY_DTYPES)),
        (tensor([1], (1,), "fp32"), "input 'x': unknown datatype; one of " + ", ".join(NUMPY_DTYPES)),
        (tensor([True], (1,)), "'x' holds a boolean, which is no FP32"),
        (tensor(["1"], (1,)), "'x' holds text, which is no FP32"),
        (tensor([{"a": 1}], (1,)), "'x' holds an object, which is no FP32"),
        (tensor([1.0], (1,), "INT64"), "'x' holds a number with a fraction or exponent, which is no INT64"),
        (tensor([None], (1,), "INT64"), "'x' holds null, which is no INT64"),
        (tensor([2**64], (1,), "UINT64"), "'x' holds a number out of the range of UINT64"),
        (tensor([10**400], (1,), "INT64"), "'x' holds a number out of the range of INT64"),
        (tensor([10**400], (1,), "FP64"), "'x' holds a number too large for FP64"),
        (tensor([70_000], (1,), "FP16"), "'x' holds a number too large for FP16"),
        (tensor([None, 1e39], (2,)), "'x' holds a number too large for FP32"),
        (tensor(None, (1,)), "input 'x' has neither data nor binary_data_size"),
    ],
)
def test_a_wrong_tensor_is_refused_by_its_name(sent: dict[str, Any], message: str) -> None:
    # R1 R3 V1
    with pytest.raises(InvalidInput) as refused:
        parse(body(tensor([1], [1], name="good"), sent))
    assert refused.value.message == message


def test_a_shape_of_more_axes_than_any_array_is_malformed() -> None:
    # R3: NumPy would raise at 65, and multiplying a million of them would take minutes.
    assert only(parse(body(tensor([1], [1] * 32)))).data.ndim == 32
    for datatype in ("FP32", "INT32"):
        with pytest.raises(MalformedRequest, match=r"length <= 32 - at `\$\.inputs\[0\]\.shape`"):
            parse(body(tensor([1], [1] * 33, datatype)))


def test_names_have_at_most_256_characters_so_that_messages_stay_short() -> None:
    # R3
    assert only(parse(body(tensor([1], [1], name="n" * 256)))).name == "n" * 256
    for wrong in ({"inputs": [tensor([1], [1], name="n" * 257)]}, {"inputs": [], "outputs": [{"name": "n" * 257}]}):
        with pytest.raises(MalformedRequest, match="length <= 256"):
            parse(json.dumps(wrong).encode())


def test_the_nesting_cap_counts_the_whole_document() -> None:
    # R3: object, list of inputs, input and its data are four levels.
    shallow = OpenInferenceCodec(max_nesting=5)
    assert isinstance(shallow.parse(body(tensor([[1], [2]], (2, 1))), None), TensorRequest)
    with pytest.raises(MalformedRequest, match="nests deeper than 5 levels"):
        shallow.parse(body(tensor([[[1]], [[2]]], (2, 1, 1))), None)
    content, length = with_tail({"inputs": [tensor([[[1]], [[2]]], (2, 1, 1))]})
    with pytest.raises(MalformedRequest, match="nests deeper than 5 levels"):
        shallow.parse(content, length)


def test_a_body_deeper_than_the_parser_can_go_is_malformed() -> None:
    # R3
    deep = body(tensor("data", [1], "BYTES")).replace(b'"data"}', b"[" * 200_000 + b"]" * 200_000 + b"}")
    with pytest.raises(MalformedRequest, match="not valid JSON"):
        OpenInferenceCodec(max_nesting=10**6).parse(deep, None)


def test_extensions_that_are_not_there_are_said_to_be_unsupported() -> None:
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    for content in (
        body({"name": "x", "datatype": "FP32", "shape": [1], "parameters": region}),
        body(tensor([1], [1]), outputs=[{"name": "y", "parameters": {"classification": 3}}]),
        body(tensor([1], [1]), outputs=[{"name": "y", "parameters": region}]),
    ):
        with pytest.raises(Unsupported):
            parse(content)


# Binary tensors


@pytest.mark.parametrize("datatype", sorted(NUMPY_DTYPES))
def test_a_binary_tensor_of_every_datatype_is_read_behind_the_header(datatype: str) -> None:
    # R1
    sent, expected = SAMPLES[datatype]
    array = np.array(sent, NUMPY_DTYPES[datatype])
    raw = encode_tensor(array)
    head = {"name": "x", "datatype": datatype, "shape": [2, 2], "parameters": {"binary_data_size": len(raw)}}
    content, length = with_tail({"inputs": [tensor([7], [1], "INT8", "first"), head]}, raw)
    first, wire = parse(content, length).inputs
    assert first.data.tolist() == [7]
    assert (wire.data.dtype, wire.data.shape) == (NUMPY_DTYPES[datatype], (2, 2))
    values = [value.decode() if isinstance(value, bytes) else value for value in wire.data.ravel().tolist()]
    assert values == expected


def binary_input(size: int, shape: Sequence[int] = (2,), datatype: str = "FP32", name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}


@pytest.mark.parametrize(
    ("inputs", "tail", "message"),
    [
        ([binary_input(8)], b"\0" * 7, "input 'x': binary_data_size does not fit the body"),
        ([binary_input(-1)], b"\0" * 8, "input 'x': binary_data_size does not fit the body"),
        ([binary_input(2**62)], b"\0" * 8, "input 'x': binary_data_size does not fit the body"),
        ([binary_input(8)], b"\0" * 9, "there are bytes in the body that no input accounts for"),
        ([tensor([1], [1])], b"\0", "there are bytes in the body that no input accounts for"),
        ([binary_input(4)], b"\0" * 4, "input 'x': 4 bytes do not make a FP32 tensor of shape [2]"),
        ([binary_input(8, [-2])], b"\0" * 8, "input 'x': a dimension of the shape is negative"),
        ([binary_input(8, [-1, -2])], b"\0" * 8, "input 'x': a dimension of the shape is negative"),
        ([binary_input(8), binary_input(8, name="y")], b"\0" * 12, "input 'y': binary_data_size does not fit the body"),
        ([{**binary_input(4, [1]), "data": [1]}], b"\0" * 4, "input 'x' has both data and binary_data_size"),
        ([binary_input(4, [1], "BYTES")], b"\5\0\0\0", "input 'x': the bytes do not make 1 BYTES elements"),
        ([binary_input(4, [1], "FP8")], b"\0" * 4, "input 'x': unknown datatype; one of " + ", ".join(NUMPY_DTYPES)),
    ],
)
def test_binary_data_that_do_not_add_up_are_refused(inputs: list[Any], tail: bytes, message: str) -> None:
    # R1 R3
    content, length = with_tail({"inputs": inputs}, tail)
    with pytest.raises(InvalidInput) as refused:
        parse(content, length)
    assert refused.value.message == message


@pytest.mark.parametrize("off", [-1, 1, 10**9])
def test_a_header_length_that_lies_is_refused(off: int) -> None:
    # R1
    raw = np.ones(2, "<f4").tobytes()
    content, length = with_tail({"inputs": [binary_input(8)]}, raw)
    with pytest.raises(MalformedRequest):
        parse(content, length + off)
    with pytest.raises(MalformedRequest):
        parse(content, -1)


def test_a_header_length_of_zero_makes_the_whole_body_the_input() -> None:
    # R1
    request = parse(b"\0\1\2\3", 0)
    assert only(request).data == b"\0\1\2\3"
    assert request.binary_outputs


# Bytes as base64, as MLServer has them

BASE64 = {"parameters": {"content_type": "base64"}}


def test_elements_that_are_said_to_be_base64_become_bytes() -> None:
    # R1
    (sent,) = parse(body(tensor([["/9g=", ""], [None, "YQ=="]], [2, 2], "BYTES", **BASE64))).inputs
    assert sent.data.tolist() == [[b"\xff\xd8", b""], [None, b"a"]]
    (plain,) = parse(body(tensor(["/9g="], [1], "BYTES", parameters={"content_type": "str"}))).inputs
    assert plain.data.tolist() == ["/9g="]


def test_so_do_those_behind_the_header() -> None:
    head = {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES"}]}
    head["inputs"][0]["parameters"] = {"content_type": "base64", "binary_data_size": 8}
    encoded = json.dumps(head).encode()
    (sent,) = parse(encoded + b"\4\0\0\0/9g=", len(encoded)).inputs
    assert sent.data.tolist() == [b"\xff\xd8"]


@pytest.mark.parametrize("wrong", ["YQ", "%%%%", "ü", "YQ==\n"])
def test_what_is_no_base64_is_named_by_its_place(wrong: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(body(tensor(["YQ==", wrong], [2], "BYTES", **BASE64)))
    assert refused.value.message == "input 'x': element 1 is not valid base64"
    with pytest.raises(InvalidInput, match="is for BYTES, not INT8"):
        parse(body(tensor([1], [1], "INT8", **BASE64)))
