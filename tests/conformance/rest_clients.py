"""Public clients over REST: NVIDIA's, blocking and asynchronous, as they are; httpx and the standard library, for which
the protocol is written out here."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import httpx
import numpy as np
from tests.conformance.cases import DTYPES, Case
from tests.conformance.clients import CODES, Addresses, Answered, Described, Output, Refused, described, from_raw, raw

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the client's own
    import tritonclient.http as triton
    import tritonclient.http.aio as triton_aio
    from tritonclient.utils import InferenceServerException

JSON_TYPE = "application/json"
HEADER_LENGTH = "Inference-Header-Content-Length"
PATIENCE = 20.0


class TritonClient:
    """``tritonclient.http``, or ``tritonclient.http.aio`` on an event loop of its own if ``asynchronous``."""

    def __init__(self, addresses: Addresses, binary: bool, asynchronous: bool = False) -> None:
        self.binary = binary
        self._address = addresses.http.partition("://")[2]
        self._trust = addresses.context()
        self._loop = asyncio.Runner() if asynchronous else None
        self.client = self._loop.run(self._opened()) if self._loop else self._blocking()

    def _blocking(self) -> Any:
        if self._trust is None:
            return triton.InferenceServerClient(self._address)
        return triton.InferenceServerClient(self._address, ssl=True, ssl_context_factory=lambda: self._trust)

    async def _opened(self) -> Any:
        if self._trust is None:
            return triton_aio.InferenceServerClient(self._address)
        return triton_aio.InferenceServerClient(self._address, ssl=True, ssl_context=self._trust)

    def _asked(self, call: str, *arguments: Any) -> Any:
        try:
            answer = getattr(self.client, call)(*arguments)
            return self._loop.run(answer) if self._loop else answer
        except InferenceServerException as error:
            raise Refused(CODES[int(error.status())], error.message()) from None

    def infer(self, case: Case, request_id: str) -> Answered:
        inputs = []
        for sent in case.inputs:
            tensor = triton.InferInput(sent.name, list(sent.array.shape), sent.datatype)
            inputs.append(tensor.set_data_from_numpy(sent.array, binary_data=self.binary))
        names = case.outputs if case.outputs is not None or self.binary else [got.name for got in case.answer]
        outputs = None if names is None else [triton.InferRequestedOutput(n, binary_data=self.binary) for n in names]
        result = self._asked("infer", case.model, inputs, case.version, outputs, request_id)
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

    def live(self) -> bool:
        return bool(self._asked("is_server_live"))

    def ready(self) -> bool:
        return bool(self._asked("is_server_ready"))

    def model_ready(self, model: str, version: str) -> bool:
        return bool(self._asked("is_model_ready", model, version))

    def server(self) -> tuple[str, str, list[str]]:
        document = self._asked("get_server_metadata")
        return document["name"], document["version"], document["extensions"]

    def model(self, model: str, version: str) -> Described:
        return described(self._asked("get_model_metadata", model, version))

    def index(self) -> list[tuple[str, str, str]]:
        entries = self._asked("get_model_repository_index")
        return [(entry["name"], entry["version"], entry["state"]) for entry in entries]

    def load(self, model: str) -> None:
        self._asked("load_model", model)

    def unload(self, model: str) -> None:
        self._asked("unload_model", model)

    def close(self) -> None:
        self._asked("close")
        if self._loop:
            self._loop.close()


class HttpxClient:
    def __init__(self, addresses: Addresses, binary: bool) -> None:
        self.binary = binary
        self._client = httpx.Client(base_url=addresses.http, timeout=PATIENCE, verify=addresses.context() or True)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        reply = self._client.post(path, content=body, headers=dict(headers))
        return reply.status_code, reply.headers, reply.content

    def infer(self, case: Case, request_id: str) -> Answered:
        return exchange(self, case, request_id)

    def close(self) -> None:
        self._client.close()


class UrllibClient:
    """The standard library, for which every request is a new connection."""

    def __init__(self, addresses: Addresses, binary: bool) -> None:
        self.binary = binary
        self._url = addresses.http
        self._trust = addresses.context()

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        request = urllib.request.Request(self._url + path, body, dict(headers), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self._trust) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def infer(self, case: Case, request_id: str) -> Answered:
        return exchange(self, case, request_id)

    def close(self) -> None:
        """Nothing is kept open."""


# The protocol by hand, for the clients that are only HTTP


def infer_path(model: str, version: str = "") -> str:
    return f"/v2/models/{model}/versions/{version}/infer" if version else f"/v2/models/{model}/infer"


class ByHand(Protocol):
    """A client that posts any bytes. Header names of a reply are found as ``HEADER_LENGTH`` is written, at least."""

    binary: bool

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body."""


def exchange(client: ByHand, case: Case, request_id: str) -> Answered:
    body, headers = encode(case, request_id, client.binary)
    status, reply_headers, reply = client.post(infer_path(case.model, case.version), body, headers)
    if status != 200:
        raise Refused(CODES[status], json.loads(reply)["error"])
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
