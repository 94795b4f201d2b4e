"""What only messages can say: typed lists and raw bytes, which do not mix and are answered in kind. # R3 G1"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.conformance.clients import Refused
from tests.conformance.grpc_clients import answer_of, messages
from tests.conformance.grpc_libraries import GrpcioClient
from tests.conformance.rest_clients import infer_path
from tests.conformance.ways import JSON_BY_HAND, RAW_MESSAGES, TYPED_MESSAGES, Way, each

from keelway.errors import ErrorCode

ROWS = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32).tobytes()


def request(
    model: str = "sums", *tensors: tuple[str, str, Sequence[int], dict[str, Any]], raw: Sequence[bytes] = ()
) -> Any:
    """A ``ModelInferRequest``. A tensor is its name, datatype, shape and lists of contents."""
    message = messages.ModelInferRequest(model_name=model, raw_input_contents=raw)
    for name, datatype, shape, contents in tensors:
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if contents:
            tensor.contents.CopyFrom(messages.InferTensorContents(**contents))
    return message


def x(datatype: str, **contents: Any) -> tuple[str, str, Sequence[int], dict[str, Any]]:
    """The input of an identity model."""
    return "x", datatype, [1, 2], contents


INPUT = ("input", "FP32", [2, 2], {})
TYPED_INPUT = ("input", "FP32", [2, 2], {"fp32_contents": [1.0, 2.0, 3.0, 4.0]})


class MessageRefusal(NamedTuple):
    """A message that is refused as an invalid argument, in these words."""

    id: str
    message: Any
    words: str


REFUSALS: Sequence[MessageRefusal] = [
    MessageRefusal(
        "more raw contents than inputs",
        request("sums", INPUT, raw=[ROWS, b""]),
        "there are 1 inputs and 2 raw_input_contents",
    ),
    MessageRefusal(
        "fewer raw contents than inputs",
        request("sums", INPUT, ("more", "FP32", [1], {}), raw=[ROWS]),
        "there are 2 inputs and 1 raw_input_contents",
    ),
    MessageRefusal(
        "raw contents without inputs", request("sums", raw=[ROWS]), "there are 0 inputs and 1 raw_input_contents"
    ),
    MessageRefusal(
        "contents and raw contents at once",
        request("sums", TYPED_INPUT, raw=[ROWS]),
        "input 'input' has both contents and raw_input_contents",
    ),
    MessageRefusal(
        "neither contents nor raw contents",
        request("sums", INPUT),
        "input 'input': 0 values do not make the shape it states",
    ),
    MessageRefusal(
        "values in the list of another datatype",
        request("sums", ("input", "FP32", [2, 2], {"fp64_contents": [1.0] * 4})),
        "input 'input': the values of a FP32 belong in fp32_contents",
    ),
    MessageRefusal(
        "values in two lists",
        request("sums", ("input", "FP32", [2, 2], {"fp32_contents": [1.0] * 4, "int_contents": [1]})),
        "input 'input': the values of a FP32 belong in fp32_contents",
    ),
    MessageRefusal(
        "texts in the list of numbers",
        request("identity-bytes", x("BYTES", int_contents=[1, 2])),
        "input 'x': the values of a BYTES belong in bytes_contents",
    ),
    MessageRefusal(
        "unsigned values in the list of signed ones",
        request("identity-uint8", x("UINT8", int_contents=[1, 2])),
        "input 'x': the values of a UINT8 belong in uint_contents",
    ),
    MessageRefusal(
        "a list for FP16, which has none",
        request("identity-fp16", x("FP16", fp32_contents=[1.0, 2.0])),
        "input 'x': FP16 travels in raw_input_contents",
    ),
    *[
        MessageRefusal(
            f"a number out of the range of {datatype}",
            request(f"identity-{datatype.lower()}", x(datatype, **{field: [0, value]})),
            f"'x' holds a number out of the range of {datatype}",
        )
        for datatype, field, value in [
            ("INT8", "int_contents", 128),
            ("INT8", "int_contents", -129),
            ("INT16", "int_contents", 2**15),
            ("UINT8", "uint_contents", 256),
            ("UINT16", "uint_contents", 2**16),
        ]
    ],
    MessageRefusal(
        "raw contents of half a value",
        request("sums", INPUT, raw=[ROWS[:-1]]),
        "input 'input': 15 bytes do not make a FP32 tensor of shape [2, 2]",
    ),
    MessageRefusal(
        "raw contents longer than the shape",
        request("sums", INPUT, raw=[ROWS + ROWS]),
        "input 'input': 32 bytes do not make a FP32 tensor of shape [2, 2]",
    ),
    MessageRefusal(
        "raw contents of nothing",
        request("sums", INPUT, raw=[b""]),
        "input 'input': 0 bytes do not make a FP32 tensor of shape [2, 2]",
    ),
]


@each([TYPED_MESSAGES], *REFUSALS)
def test_a_message_is_refused_in_these_words(client: GrpcioClient, case: MessageRefusal) -> None:
    with pytest.raises(Refused) as refusal:
        client.call("ModelInfer", case.message, messages.ModelInferResponse)
    assert (refusal.value.code, refusal.value.message) == (ErrorCode.INVALID_ARGUMENT, case.words)


@each([TYPED_MESSAGES])
def test_bytes_that_are_no_message_are_an_invalid_argument(client: GrpcioClient) -> None:
    class Bytes(bytes):
        def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
            return bytes(self)

    for method, name in (("ModelInfer", "ModelInferRequest"), ("ModelMetadata", "ModelMetadataRequest")):
        with pytest.raises(Refused) as refusal:
            client.call(method, Bytes(b"\xff\xff"), messages.ModelInferResponse)
        assert refusal.value.code == ErrorCode.INVALID_ARGUMENT
        assert refusal.value.message == f"the message is not a {name}"


@each([TYPED_MESSAGES])
def test_a_method_nobody_has_is_unimplemented(client: GrpcioClient) -> None:
    with pytest.raises(Refused) as refusal:
        client.call("ModelStreamInfer", messages.ModelInferRequest(), messages.ModelInferResponse)
    assert refusal.value.code == ErrorCode.UNIMPLEMENTED


@each([TYPED_MESSAGES, RAW_MESSAGES])
def test_fp16_is_answered_raw_whatever_was_asked(way: Way, client: GrpcioClient) -> None:
    values = np.array([1.0, 3.0], np.float32)
    typed = request("halves", ("x", "FP32", [2], {"fp32_contents": values.tolist()}))
    raw = request("halves", ("x", "FP32", [2], {}), raw=[values.tobytes()])
    reply = client.call("ModelInfer", typed if way is TYPED_MESSAGES else raw, messages.ModelInferResponse)
    assert len(reply.raw_output_contents) == 1
    (output,) = answer_of(reply).outputs
    assert (output.datatype, output.array.tolist()) == ("FP16", [0.5, 1.5])


@each([RAW_MESSAGES])
def test_an_answer_says_what_answered(client: GrpcioClient) -> None:  # R6
    reply = client.call("ModelInfer", request("sums", INPUT, raw=[ROWS]), messages.ModelInferResponse)
    assert reply.parameters["model_digest"].string_param == "sha256:sums-1.0.0"
    assert reply.parameters["policy_revision"].int64_param == 1
    assert reply.parameters["request_id"].string_param
    assert reply.id == ""


def test_both_transports_answer_the_same_parameters(connect: Callable[[Way], Any]) -> None:  # R6
    tensor = {"name": "input", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]}
    body = json.dumps({"inputs": [tensor]}).encode()
    _, _, answer = connect(JSON_BY_HAND[0]).post(infer_path("sums"), body, {"Content-Type": "application/json"})
    over_rest = json.loads(answer)["parameters"]
    reply = connect(RAW_MESSAGES).call("ModelInfer", request("sums", INPUT, raw=[ROWS]), messages.ModelInferResponse)
    assert over_rest.keys() == reply.parameters.keys()
    for name in ("model_digest", "policy_revision"):
        value = reply.parameters[name]
        assert over_rest[name] == getattr(value, value.WhichOneof("parameter_choice"))
