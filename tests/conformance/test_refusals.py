"""What must be refused, byte by byte: over REST by hand, and in the same words over gRPC where a message can say it.
# R1 R3 G1"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.conformance.cases import (
    BINARY_REFUSALS,
    JSON_REFUSALS,
    RAW_REFUSALS,
    REFUSALS,
    BinaryRefusal,
    Refusal,
)
from tests.conformance.clients import CODES, Refused
from tests.conformance.grpc_clients import LISTS, messages
from tests.conformance.grpc_libraries import GrpcioClient
from tests.conformance.rest_clients import HEADER_LENGTH, HttpxClient, UrllibClient, infer_path
from tests.conformance.ways import BYTES_BY_HAND, JSON_BY_HAND, RAW_MESSAGES, TYPED_MESSAGES, Way, each


def in_json(client: HttpxClient | UrllibClient, case: Refusal) -> tuple[int, Mapping[str, str], bytes]:
    body = json.dumps(case.body).encode()
    return client.post(infer_path(case.model, case.version), body, {"Content-Type": "application/json"})


def in_bytes(client: HttpxClient | UrllibClient, case: BinaryRefusal) -> tuple[int, bytes]:
    head = b"" if case.head is None else json.dumps(case.head).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: case.header_length or str(len(head))}
    status, _, reply = client.post(infer_path(case.model), head + case.tail, headers)
    return status, reply


@each(JSON_BY_HAND, *REFUSALS, *JSON_REFUSALS)
def test_a_refusal_in_json(client: HttpxClient | UrllibClient, case: Refusal) -> None:
    status, headers, reply = in_json(client, case)
    assert status == case.status, reply
    assert headers["content-type"] == "application/json"
    document = json.loads(reply)
    assert document.keys() == {"error"}
    assert case.names in document["error"]


@each(BYTES_BY_HAND, *RAW_REFUSALS, *BINARY_REFUSALS)
def test_a_refusal_in_bytes(client: HttpxClient | UrllibClient, case: BinaryRefusal) -> None:
    status, reply = in_bytes(client, case)
    assert status == case.status, reply
    assert json.loads(reply).keys() == {"error"}


@each([TYPED_MESSAGES], *REFUSALS)
def test_a_message_is_refused_in_the_words_of_rest(
    client: GrpcioClient, connect: Callable[[Way], Any], case: Refusal
) -> None:
    status, _, reply = in_json(connect(JSON_BY_HAND[0]), case)
    with pytest.raises(Refused) as refusal:
        client.call("ModelInfer", message_of(case), messages.ModelInferResponse)
    assert (refusal.value.code, refusal.value.message) == (CODES[status], json.loads(reply)["error"])
    assert refusal.value.code == CODES[case.status]


@each([RAW_MESSAGES], *RAW_REFUSALS)
def test_raw_contents_are_refused_in_the_words_of_rest(
    client: GrpcioClient, connect: Callable[[Way], Any], case: BinaryRefusal
) -> None:
    status, reply = in_bytes(connect(BYTES_BY_HAND[0]), case)
    (tensor,) = case.head["inputs"]
    message = messages.ModelInferRequest(model_name=case.model, raw_input_contents=[case.tail])
    message.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    with pytest.raises(Refused) as refusal:
        client.call("ModelInfer", message, messages.ModelInferResponse)
    assert (refusal.value.code, refusal.value.message) == (CODES[status], json.loads(reply)["error"])


def message_of(case: Refusal) -> Any:
    """The JSON of a refusal as a message. What a message cannot say is a ``TypeError`` of protobuf's."""
    message = messages.ModelInferRequest(model_name=case.model, model_version=case.version)
    for sent in case.body["inputs"]:
        tensor = message.inputs.add(name=sent["name"], datatype=sent["datatype"], shape=sent["shape"])
        elements = [item.encode() if isinstance(item, str) else item for item in sent.get("data", ())]
        getattr(tensor.contents, LISTS.get(sent["datatype"], "fp32_contents")).extend(elements)
        for name, region in sent.get("parameters", {}).items():
            tensor.parameters[name].string_param = region
    for wanted in case.body.get("outputs", ()):
        output = message.outputs.add(name=wanted["name"])
        for name, number in wanted.get("parameters", {}).items():
            output.parameters[name].int64_param = number
    return message
