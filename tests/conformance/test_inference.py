"""Every case over every client and both encodings: answers are exact, refusals are readable. # R1"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from tests.conformance.cases import (
    BINARY_CASES,
    BINARY_REFUSALS,
    CASES,
    REFUSALS,
    BinaryRefusal,
    Case,
    Got,
    Refusal,
    Sent,
)
from tests.conformance.clients import (
    CLIENTS,
    HEADER_LENGTH,
    Client,
    HttpxClient,
    Refused,
    UrllibClient,
    connected,
    decode,
    infer_path,
)
from tests.serving import Server

from keelway.types import Array


@pytest.fixture(scope="module", params=CLIENTS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=[False, True], ids=["json", "binary"])
def client(request: pytest.FixtureRequest, kind: type, server: Server) -> Iterator[Client]:
    with connected(kind, server.url, request.param) as opened:
        yield opened


@pytest.fixture(scope="module", params=[HttpxClient, UrllibClient], ids=lambda kind: kind.__name__)
def plain(request: pytest.FixtureRequest, server: Server) -> Iterator[HttpxClient | UrllibClient]:
    """A client that sends any bytes."""
    with connected(request.param, server.url, True) as opened:
        yield opened  # type: ignore[misc]


def texts(array: Array) -> Array:
    """BYTES as bytes, whichever way they came."""
    flat = [value if isinstance(value, bytes) else value.encode() for value in array.ravel().tolist()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape)


def check(case: Case, client: Client, request_id: str = "call 7") -> None:
    answered = client.infer(case, request_id)
    assert (answered.model, answered.version, answered.id) == (case.model, case.answered_by, request_id)
    assert [(output.name, output.datatype) for output in answered.outputs] == [got[:2] for got in case.answer]
    for output, got in zip(answered.outputs, case.answer, strict=True):
        values = got.values if client.binary or got.in_json is None else got.in_json
        expected = Sent(got.name, got.datatype, values).array
        if got.datatype == "BYTES":
            assert texts(output.array).tolist() == texts(expected).tolist()
        else:
            assert (output.array.dtype, output.array.shape) == (expected.dtype, expected.shape)
            # Bit for bit, so that the sign of zero and the last digit count; NaN has many bit patterns.
            assert np.array_equal(output.array, expected, equal_nan=expected.dtype.kind == "f")
            assert np.array_equal(np.signbit(output.array), np.signbit(expected)) or expected.dtype.kind != "f"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_request_is_answered_exactly(client: Client, case: Case) -> None:
    check(case, client)


@pytest.mark.parametrize("case", BINARY_CASES, ids=lambda case: case.id)
def test_a_request_that_only_bytes_can_say(client: Client, case: Case) -> None:
    if client.binary:
        check(case, client)


@pytest.mark.parametrize(
    "case",
    [
        Case("an unknown model", "nobody", [Sent("x", "FP32", [1.0])], [Got("y", "FP32", [])]),
        Case(
            "an unknown version", "sums", [Sent("input", "FP32", [[1.0, 2.0]])], [Got("sum", "FP32", [])], version="9"
        ),
    ],
    ids=lambda case: case.id,
)
def test_what_is_not_there_is_404_for_every_client(client: Client, case: Case) -> None:
    with pytest.raises(Refused) as refusal:
        client.infer(case, "")
    assert refusal.value.status == 404


def test_a_mistake_is_400_for_every_client(client: Client) -> None:
    case = Case("", "sums", [Sent("input", "FP64", [[1.0, 2.0]])], [Got("sum", "FP32", [])])
    with pytest.raises(Refused, match="FP32") as refusal:
        client.infer(case, "")
    assert refusal.value.status == 400


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.id)
def test_a_refusal_in_json(plain: HttpxClient | UrllibClient, refusal: Refusal) -> None:
    body = json.dumps(refusal.body).encode()
    path = infer_path(refusal.model, refusal.version)
    status, headers, reply = plain.post(path, body, {"Content-Type": "application/json"})
    assert status == refusal.status, reply
    assert headers["content-type"] == "application/json"
    document = json.loads(reply)
    assert document.keys() == {"error"}
    assert refusal.names in document["error"]


@pytest.mark.parametrize("refusal", BINARY_REFUSALS, ids=lambda refusal: refusal.id)
def test_a_refusal_in_bytes(plain: HttpxClient | UrllibClient, refusal: BinaryRefusal) -> None:
    head = b"" if refusal.head is None else json.dumps(refusal.head).encode()
    length = refusal.header_length or str(len(head))
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: length}
    status, _, reply = plain.post(infer_path(refusal.model), head + refusal.tail, headers)
    assert status == refusal.status, reply
    assert json.loads(reply).keys() == {"error"}


def test_a_raw_body_is_the_only_input(plain: HttpxClient | UrllibClient) -> None:
    body = np.array([[1, 2], [3, 4]], dtype=np.float32).tobytes()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: "0"}
    status, reply_headers, reply = plain.post(infer_path("sums"), body, headers)
    assert status == 200
    assert [output.array.tolist() for output in decode(reply, reply_headers).outputs] == [[3, 7], [2, 12]]


def test_each_output_comes_in_the_form_it_was_asked_for(plain: HttpxClient | UrllibClient) -> None:
    tensor = {"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [3.0, 4.0]}
    outputs = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "product"}]
    body = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    status, headers, reply = plain.post(infer_path("sums"), body, {"Content-Type": "application/json"})
    assert status == 200
    head = json.loads(reply[: int(headers[HEADER_LENGTH])])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert "data" not in head["outputs"][0]
    assert head["outputs"][1]["data"] == [12.0]
    assert headers["content-type"] == "application/octet-stream"
    assert [output.array.tolist() for output in decode(reply, headers).outputs] == [[7.0], [12.0]]


def test_texts_that_json_cannot_say_are_an_honest_501(plain: HttpxClient | UrllibClient) -> None:
    parameters = {"binary_data_size": 10}
    tensor = {"name": "x", "shape": [1, 2], "datatype": "BYTES", "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    body = head + b"\x01\x00\x00\x00\xff\x01\x00\x00\x00\xfe"
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    status, _, reply = plain.post(infer_path("identity-bytes"), body, headers)
    assert status == 501
    assert "binary" in json.loads(reply)["error"]
