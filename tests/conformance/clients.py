"""Public clients of the Open Inference Protocol, behind one interface: each sends a case and says what it got.

A new transport joins the suite as one more ``Client``.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import httpx
import numpy as np
from tests.conformance.cases import DTYPES, Case

from keelway.types import Array

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the client's own
    import tritonclient.http as triton
    from tritonclient.utils import (
        InferenceServerException,
        deserialize_bytes_tensor,
        serialize_byte_tensor,
    )

JSON_TYPE = "application/json"
HEADER_LENGTH = "Inference-Header-Content-Length"


class Output(NamedTuple):
    name: str
    datatype: str
    array: Array


class Answered(NamedTuple):
    model: str
    version: str
    id: str
    outputs: Sequence[Output]


class Refused(Exception):
    """The server said no. ``message`` is the text in the protocol's form of an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Client(Protocol):
    """``binary``: tensors travel as bytes, not as JSON."""

    binary: bool

    def infer(self, case: Case, request_id: str) -> Answered: ...

    def close(self) -> None: ...


class TritonClient:
    """NVIDIA's client as it is."""

    def __init__(self, url: str, binary: bool) -> None:
        self.binary = binary
        self.client = triton.InferenceServerClient(url.removeprefix("http://"))

    def infer(self, case: Case, request_id: str) -> Answered:
        inputs = []
        for sent in case.inputs:
            tensor = triton.InferInput(sent.name, list(sent.array.shape), sent.datatype)
            inputs.append(tensor.set_data_from_numpy(sent.array, binary_data=self.binary))
        names = case.outputs if case.outputs is not None or self.binary else [got.name for got in case.answer]
        outputs = None if names is None else [triton.InferRequestedOutput(n, binary_data=self.binary) for n in names]
        try:
            result = self.client.infer(case.model, inputs, case.version, outputs, request_id)
        except InferenceServerException as error:
            raise Refused(int(error.status()), error.message()) from None
        document = result.get_response()
        return Answered(
            document["model_name"],
            document["model_version"],
            document.get("id", ""),
            [
                Output(output["name"], output["datatype"], result.as_numpy(output["name"]))
                for output in document["outputs"]
            ],
        )

    def close(self) -> None:
        self.client.close()


class HttpxClient:
    def __init__(self, url: str, binary: bool) -> None:
        self.binary = binary
        self._client = httpx.Client(base_url=url)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        reply = self._client.post(path, content=body, headers=dict(headers))
        return reply.status_code, reply.headers, reply.content

    def infer(self, case: Case, request_id: str) -> Answered:
        return exchange(self, case, request_id)

    def close(self) -> None:
        self._client.close()


class UrllibClient:
    """The standard library, for which every request is a new connection."""

    def __init__(self, url: str, binary: bool) -> None:
        self.binary = binary
        self._url = url

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        request = urllib.request.Request(self._url + path, body, dict(headers), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def infer(self, case: Case, request_id: str) -> Answered:
        return exchange(self, case, request_id)

    def close(self) -> None:
        """Nothing is kept open."""


CLIENTS = (TritonClient, HttpxClient, UrllibClient)


@contextlib.contextmanager
def connected(kind: Any, url: str, binary: bool) -> Iterator[Client]:
    client = kind(url, binary)
    try:
        yield client
    finally:
        client.close()


# The protocol by hand, for the clients that are only HTTP


def infer_path(model: str, version: str = "") -> str:
    return f"/v2/models/{model}/versions/{version}/infer" if version else f"/v2/models/{model}/infer"


def exchange(client: HttpxClient | UrllibClient, case: Case, request_id: str) -> Answered:
    body, headers = encode(case, request_id, client.binary)
    status, reply_headers, reply = client.post(infer_path(case.model, case.version), body, headers)
    if status != 200:
        raise Refused(status, json.loads(reply)["error"])
    return decode(reply, reply_headers)


def encode(case: Case, request_id: str, binary: bool) -> tuple[bytes, dict[str, str]]:
    tail: list[bytes] = []
    inputs = []
    for sent in case.inputs:
        head: dict[str, Any] = {"name": sent.name, "shape": sent.array.shape, "datatype": sent.datatype}
        if binary:
            tail.append(raw(sent.array))
            head["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            head["data"] = sent.array.ravel().tolist()
        inputs.append(head)
    document: dict[str, Any] = {"id": request_id, "inputs": inputs}
    if case.outputs is not None:
        document["outputs"] = [{"name": name} for name in case.outputs]
    if not binary:
        return json.dumps(document).encode(), {"Content-Type": JSON_TYPE}
    document["parameters"] = {"binary_data_output": True}
    head_bytes = json.dumps(document).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head_bytes))}
    return b"".join((head_bytes, *tail)), headers


def decode(body: bytes, headers: Mapping[str, str]) -> Answered:
    length = headers.get(HEADER_LENGTH)
    document = json.loads(body if length is None else body[: int(length)])
    at = int(length or 0)
    outputs = []
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            flat = np.array(output["data"], dtype=DTYPES[output["datatype"]])
        else:
            flat = from_raw(body[at : at + size], output["datatype"])
            at += size
        outputs.append(Output(output["name"], output["datatype"], flat.reshape(output["shape"])))
    assert length is None or at == len(body), "bytes are left over"
    return Answered(document["model_name"], document["model_version"], document.get("id", ""), outputs)


def raw(array: Array) -> bytes:
    if array.dtype == np.object_:
        return serialize_byte_tensor(array).item() if array.size else b""  # type: ignore[no-any-return]
    return array.tobytes()


def from_raw(data: bytes, datatype: str) -> Array:
    if datatype == "BYTES":
        return deserialize_bytes_tensor(data)  # type: ignore[no-any-return]
    return np.frombuffer(data, dtype=DTYPES[datatype])
