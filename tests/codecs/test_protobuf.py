"""The Open Inference Protocol as protobuf: every datatype both ways, and each rule of its raw contents. # G1"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.codecs.protobuf import OpenInferenceProtobufCodec
from keelway.errors import InvalidInput, KeelwayError, MalformedRequest, Unsupported
from keelway.types import NUMPY_DTYPES, Array, InferenceResponse, Tensor, TensorRequest
from keelway.wire.open_inference_pb2 import InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse

CODEC = OpenInferenceProtobufCodec()
Input = ModelInferRequest.InferInputTensor
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP32": [0.1, -0.0],
    "FP64": [0.1, 5e-324],
    "BYTES": [b"text", b"\xff\x00"],
}
LISTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
EVERY_DATATYPE = pytest.mark.parametrize("datatype", VALUES)


def message(*inputs: Input, **fields: Any) -> bytes:
    return ModelInferRequest(model_name="m", inputs=inputs, **fields).SerializeToString()


def typed(datatype: str, values: list[Any], shape: list[int] | None = None, name: str = "x") -> Input:
    contents = InferTensorContents(**{LISTS[datatype]: values})
    return Input(name=name, datatype=datatype, shape=shape or [len(values)], contents=contents)


def raw(array: Array, datatype: str) -> bytes:
    tensor = Input(name="x", datatype=datatype, shape=array.shape)
    return message(tensor, raw_input_contents=[array.tobytes()])


def parsed(body: bytes) -> TensorRequest:
    request = CODEC.parse(body, None)
    assert isinstance(request, TensorRequest)
    return request


def response(*tensors: Tensor, tags: tuple[str, ...] = ()) -> InferenceResponse:
    return InferenceResponse("m", "1.2.0", "sha256:abc", 7, "r-1", 0.0, tensors, rows=2, tags=tags)


def encoded(request: TensorRequest, *tensors: Tensor, tags: tuple[str, ...] = ()) -> ModelInferResponse:
    reply = CODEC.encode(response(*tensors, tags=tags), request)
    return ModelInferResponse.FromString(reply.body)


RAW = TensorRequest((), id="42", binary_outputs=True)
TYPED = TensorRequest((), id="42")


@EVERY_DATATYPE
def test_typed_values_become_an_array_of_the_datatype(datatype: str) -> None:
    (tensor,) = parsed(message(typed(datatype, VALUES[datatype], [2, 1]))).inputs
    assert tensor.data.dtype == NUMPY_DTYPES[datatype]
    assert tensor.data.shape == tensor.shape == (2, 1)
    expected = np.array(VALUES[datatype], dtype=NUMPY_DTYPES[datatype]).tolist()
    assert tensor.data.ravel().tolist() == expected


@pytest.mark.parametrize("datatype", [name for name in NUMPY_DTYPES if name != "BYTES"])
def test_raw_bytes_become_an_array_of_the_datatype(datatype: str) -> None:
    array = np.array([[1, 0], [0, 1]], dtype=NUMPY_DTYPES[datatype])
    (tensor,) = parsed(raw(array, datatype)).inputs
    assert tensor.data.dtype == array.dtype
    assert tensor.data.tolist() == array.tolist()


def test_raw_texts_carry_their_lengths() -> None:
    tensor = Input(name="x", datatype="BYTES", shape=[2])
    body = message(tensor, raw_input_contents=[b"\2\0\0\0ab\0\0\0\0"])
    assert parsed(body).inputs[0].data.tolist() == [b"ab", b""]


def test_the_message_names_the_model_the_version_and_the_id() -> None:
    request = parsed(
        ModelInferRequest(
            model_name="churn",
            model_version="champion",
            id="42",
            inputs=[typed("FP32", [1.0])],
            outputs=[ModelInferRequest.InferRequestedOutputTensor(name="y")],
        ).SerializeToString()
    )
    assert (request.model, request.selector, request.id) == ("churn", "champion", "42")
    assert [output.name for output in request.outputs] == ["y"]
    assert parsed(message(typed("FP32", [1.0]))).selector is None


@EVERY_DATATYPE
@pytest.mark.parametrize("request_", [RAW, TYPED], ids=["raw", "typed"])
def test_an_answer_reads_back_as_it_was(datatype: str, request_: TensorRequest) -> None:
    array = np.array(VALUES[datatype], dtype=NUMPY_DTYPES[datatype]).reshape(2, 1)
    reply = encoded(request_, Tensor("y", datatype, array))
    (output,) = reply.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [2, 1])
    if request_.binary_outputs:
        assert not output.HasField("contents")
        back = parsed(
            message(Input(name="y", datatype=datatype, shape=[2, 1]), raw_input_contents=reply.raw_output_contents)
        )
        assert back.inputs[0].data.tolist() == array.tolist()
    else:
        assert not reply.raw_output_contents
        assert list(getattr(output.contents, LISTS[datatype])) == array.ravel().tolist()


def test_an_answer_with_half_floats_is_raw_whatever_was_asked() -> None:
    half = Tensor("h", "FP16", np.array([1.5], np.float16))
    single = Tensor("s", "FP32", np.array([2.5], np.float32))
    reply = encoded(TYPED, half, single)
    assert list(reply.raw_output_contents) == [half.data.tobytes(), single.data.tobytes()]


def test_an_answer_says_what_gave_it() -> None:  # R6
    reply = encoded(RAW, Tensor("y", "FP32", np.zeros(1, np.float32)), tags=("out_of_range:age", "unseen:city"))
    assert (reply.model_name, reply.model_version, reply.id) == ("m", "1.2.0", "42")
    assert reply.parameters["model_digest"].string_param == "sha256:abc"
    assert reply.parameters["policy_revision"].int64_param == 7
    assert reply.parameters["request_id"].string_param == "r-1"
    assert reply.parameters["tags"].string_param == "out_of_range:age,unseen:city"


def test_texts_of_a_model_are_bytes_on_the_wire() -> None:
    texts = Tensor("y", "BYTES", np.array(["Zürich", b"\xff"], dtype=object))
    assert list(encoded(TYPED, texts).outputs[0].contents.bytes_contents) == ["Zürich".encode(), b"\xff"]


SHARED = {"shared_memory_region": InferParameter(string_param="r")}
BAD: dict[str, tuple[bytes, type[KeelwayError], str]] = {
    "no message": (b"\xff\xff\xff", MalformedRequest, "ModelInferRequest"),
    "fewer raw contents than inputs": (
        message(Input(name="x"), Input(name="y"), raw_input_contents=[b""]),
        MalformedRequest,
        "2 inputs and 1",
    ),
    "raw contents without inputs": (message(raw_input_contents=[b""]), MalformedRequest, "0 inputs and 1"),
    "raw and typed at once": (
        message(typed("FP32", [1.0]), raw_input_contents=[b"\0\0\0\0"]),
        MalformedRequest,
        "both contents and raw",
    ),
    "raw of another size": (
        message(Input(name="x", datatype="FP32", shape=[2]), raw_input_contents=[b"\0" * 7]),
        InvalidInput,
        "7 bytes",
    ),
    "a negative dimension, raw": (
        message(Input(name="x", datatype="FP32", shape=[-1, -1]), raw_input_contents=[b"\0" * 4]),
        InvalidInput,
        "negative",
    ),
    "a negative dimension, typed": (message(typed("FP32", [1.0], [-1, -1])), InvalidInput, "negative"),
    "values in another list": (
        message(Input(name="x", datatype="FP32", shape=[1], contents=InferTensorContents(fp64_contents=[1.0]))),
        InvalidInput,
        "belong in fp32_contents",
    ),
    "values in two lists": (
        message(
            Input(
                name="x",
                datatype="FP32",
                shape=[1],
                contents=InferTensorContents(fp32_contents=[1.0], fp64_contents=[1.0]),
            )
        ),
        InvalidInput,
        "belong in fp32_contents",
    ),
    "no values": (message(Input(name="x", datatype="FP32", shape=[1])), InvalidInput, "0 values"),
    "half floats, typed": (message(Input(name="x", datatype="FP16", shape=[1])), InvalidInput, "raw_input_contents"),
    "an unknown datatype": (message(Input(name="x", datatype="FP31", shape=[1])), InvalidInput, "unknown datatype"),
    "an integer too large for its datatype": (message(typed("INT8", [128])), InvalidInput, "range of INT8"),
    "an unsigned too large for its datatype": (message(typed("UINT8", [256])), InvalidInput, "range of UINT8"),
    "a long name": (message(Input(name="x" * 257, datatype="FP32")), MalformedRequest, "256"),
    "too many axes": (message(typed("FP32", [1.0], [1] * 33)), MalformedRequest, "32 axes"),
    "a huge dimension": (message(typed("FP32", [], [2**62, 0])), InvalidInput, "too large"),
    "shared memory in": (message(Input(name="x", datatype="FP32", parameters=SHARED)), Unsupported, "shared memory"),
    "shared memory out": (
        message(outputs=[ModelInferRequest.InferRequestedOutputTensor(name="y", parameters=SHARED)]),
        Unsupported,
        "shared memory",
    ),
    "classification": (
        message(
            outputs=[
                ModelInferRequest.InferRequestedOutputTensor(
                    name="y", parameters={"classification": InferParameter(int64_param=3)}
                )
            ]
        ),
        Unsupported,
        "classification",
    ),
}


@pytest.mark.parametrize(("body", "kind", "words"), BAD.values(), ids=BAD)
def test_what_breaks_a_rule_is_refused_with_its_name(body: bytes, kind: type[KeelwayError], words: str) -> None:
    with pytest.raises(kind, match=words) as refusal:
        CODEC.parse(body, None)
    assert len(refusal.value.message) < 500


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error_of_the_callers(body: bytes) -> None:
    with contextlib.suppress(InvalidInput, Unsupported):
        CODEC.parse(body, None)


@given(
    st.builds(
        Input,
        name=st.text(max_size=4),
        datatype=st.sampled_from([*NUMPY_DTYPES, "FP31", ""]),
        shape=st.lists(st.integers(-2, 3) | st.sampled_from([2**31, 2**62]), max_size=4),
        contents=st.none()
        | st.builds(
            InferTensorContents,
            fp32_contents=st.lists(st.floats(width=32), max_size=4),
            int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
            bytes_contents=st.lists(st.binary(max_size=4), max_size=4),
        ),
    ),
    st.none() | st.binary(max_size=40),
)
def test_any_tensor_is_understood_or_refused(tensor: Input, tail: bytes | None) -> None:
    body = message(tensor) if tail is None else message(tensor, raw_input_contents=[tail])
    try:
        (got,) = parsed(body).inputs
    except (InvalidInput, Unsupported):
        return
    assert got.data.shape == tuple(tensor.shape)
    assert got.data.dtype == NUMPY_DTYPES[tensor.datatype]


@pytest.mark.parametrize("raw", [False, True])
def test_elements_that_are_said_to_be_base64_become_bytes(raw: bool) -> None:
    """As MLServer has it; without that word, bytes are bytes."""
    said = {"content_type": InferParameter(string_param="base64")}
    for parameters, expected in ((said, [b"\xff\xd8"]), ({}, [b"/9g="])):
        tensor = Input(name="x", datatype="BYTES", shape=[1], parameters=parameters)
        if not raw:
            tensor.contents.bytes_contents.append(b"/9g=")
        message = ModelInferRequest(inputs=[tensor], raw_input_contents=[b"\4\0\0\0/9g="] if raw else [])
        request = CODEC.parse(message.SerializeToString(), None)
        assert isinstance(request, TensorRequest)
        assert request.inputs[0].data.tolist() == expected
    wrong = Input(name="x", datatype="BYTES", shape=[1], parameters=said)
    wrong.contents.bytes_contents.append(b"?")
    with pytest.raises(InvalidInput, match="element 0 is not valid base64"):
        CODEC.parse(ModelInferRequest(inputs=[wrong]).SerializeToString(), None)
