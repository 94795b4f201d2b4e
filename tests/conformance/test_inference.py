"""Every case over every client, transport and encoding: answers are exact, mistakes are refused. # R1 G1"""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.conformance.cases import CASES, MISTAKES, Case
from tests.conformance.clients import Client, Refused
from tests.conformance.exact import assert_exact
from tests.conformance.rest_clients import HEADER_LENGTH, HttpxClient, UrllibClient, decode, infer_path
from tests.conformance.ways import BYTES_BY_HAND, JSON_BY_HAND, WAYS, Way, each


@each(WAYS, *CASES)
def test_a_request_is_answered_exactly(way: Way, case: Case, client: Client) -> None:
    assert_exact(client.infer(case, "call 7"), case, way, "call 7")


@each(WAYS, *MISTAKES)
def test_a_refusal_that_every_client_can_cause(client: Client, case: Case) -> None:
    with pytest.raises(Refused) as refusal:
        client.infer(case, "")
    assert (refusal.value.code, refusal.value.message) == case.refused


@each(BYTES_BY_HAND)
def test_a_raw_body_is_the_only_input(client: HttpxClient | UrllibClient) -> None:
    body = np.array([[1, 2], [3, 4]], dtype=np.float32).tobytes()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: "0"}
    status, reply_headers, reply = client.post(infer_path("sums"), body, headers)
    assert status == 200
    assert [output.array.tolist() for output in decode(reply, reply_headers).outputs] == [[3, 7], [2, 12]]


@each(JSON_BY_HAND)
def test_bytes_in_json_are_base64_where_the_input_says_so(client: HttpxClient | UrllibClient) -> None:
    for data, length in (("/9g=", 2), ("", 0), ("YWJj", 3)):
        tensor = {"name": "data", "shape": [1], "datatype": "BYTES", "data": [data]}
        for parameters, expected in (({"content_type": "base64"}, length), ({}, len(data))):
            body = json.dumps({"inputs": [tensor | {"parameters": parameters}]}).encode()
            status, headers, reply = client.post(infer_path("lengths"), body, {"Content-Type": "application/json"})
            assert status == 200
            assert [output.array.tolist() for output in decode(reply, headers).outputs] == [[expected]]


@each(BYTES_BY_HAND)
def test_each_output_comes_in_the_form_it_was_asked_for(client: HttpxClient | UrllibClient) -> None:
    tensor = {"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [3.0, 4.0]}
    outputs = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "product"}]
    body = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    status, headers, reply = client.post(infer_path("sums"), body, {"Content-Type": "application/json"})
    assert status == 200
    head = json.loads(reply[: int(headers[HEADER_LENGTH])])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert "data" not in head["outputs"][0]
    assert head["outputs"][1]["data"] == [12.0]
    assert headers["content-type"] == "application/octet-stream"
    assert [output.array.tolist() for output in decode(reply, headers).outputs] == [[7.0], [12.0]]


@each(BYTES_BY_HAND)
def test_texts_that_json_cannot_say_are_an_honest_501(client: HttpxClient | UrllibClient) -> None:
    parameters = {"binary_data_size": 10}
    tensor = {"name": "x", "shape": [1, 2], "datatype": "BYTES", "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    body = head + b"\x01\x00\x00\x00\xff\x01\x00\x00\x00\xfe"
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    status, _, reply = client.post(infer_path("identity-bytes"), body, headers)
    assert status == 501
    assert "binary" in json.loads(reply)["error"]
