"""Clients over gRPC: NVIDIA's, blocking and asynchronous, as they are, and what those have in common that send NVIDIA's
messages, which were generated from another file than the server's. Their libraries are in ``grpc_libraries.py`` and
``command_clients.py``."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tests.conformance.cases import DTYPES, Case, Sent
from tests.conformance.clients import (
    PLAIN,
    Addresses,
    Answered,
    Described,
    Options,
    Output,
    Refused,
    described,
    from_raw,
    raw,
)

from keelway.errors import ErrorCode
from keelway.types import Array

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the client's own
    import tritonclient.grpc as triton
    import tritonclient.grpc.aio as triton_aio
    from tritonclient.grpc import service_pb2 as messages
    from tritonclient.utils import InferenceServerException

SERVICE = "/inference.GRPCInferenceService/"

#: The list of ``InferTensorContents`` for each datatype; FP16 has none.
LISTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class TritonClient:
    """``tritonclient.grpc``, or ``tritonclient.grpc.aio`` on an event loop of its own if ``asynchronous``. It knows raw
    bytes only."""

    def __init__(self, addresses: Addresses, asynchronous: bool = False) -> None:
        self._address = addresses.grpc
        self._secured: dict[str, Any] = (
            {"ssl": True, "root_certificates": str(addresses.trust)} if addresses.trust else {}
        )
        self._loop = asyncio.Runner() if asynchronous else None
        blocking = triton.InferenceServerClient
        self.client = self._loop.run(self._opened()) if self._loop else blocking(self._address, **self._secured)

    async def _opened(self) -> Any:
        return triton_aio.InferenceServerClient(self._address, **self._secured)

    def _asked(self, call: str, *arguments: Any, **more: Any) -> Any:
        try:
            answer = getattr(self.client, call)(*arguments, **more)
            return self._loop.run(answer) if self._loop else answer
        except InferenceServerException as error:
            raise Refused(ErrorCode[error.status().removeprefix("StatusCode.")], error.message()) from None

    def infer(self, case: Case, request_id: str, options: Options = PLAIN) -> Answered:
        inputs = []
        for sent in case.inputs:
            tensor = triton.InferInput(sent.name, list(sent.array.shape), sent.datatype)
            inputs.append(tensor.set_data_from_numpy(sent.array))
        outputs = None if case.outputs is None else [triton.InferRequestedOutput(name) for name in case.outputs]
        more = {
            "client_timeout": options.timeout,
            "headers": dict(options.metadata),
            "compression_algorithm": "gzip" if options.gzip else None,
        }
        result = self._asked("infer", case.model, inputs, case.version, outputs, request_id, **more)
        message = result.get_response()
        answered = [Output(output.name, output.datatype, result.as_numpy(output.name)) for output in message.outputs]
        return Answered(message.model_name, message.model_version, message.id, answered)

    def live(self) -> bool:
        return bool(self._asked("is_server_live"))

    def ready(self) -> bool:
        return bool(self._asked("is_server_ready"))

    def model_ready(self, model: str, version: str) -> bool:
        return bool(self._asked("is_model_ready", model, version))

    def server(self) -> tuple[str, str, list[str]]:
        document = self._asked("get_server_metadata", as_json=True)
        return document["name"], document["version"], document["extensions"]

    def model(self, model: str, version: str) -> Described:
        return described(self._asked("get_model_metadata", model, version, as_json=True))

    def index(self) -> list[tuple[str, str, str]]:
        entries = self._asked("get_model_repository_index", as_json=True)["models"]
        return [(entry["name"], entry["version"], entry["state"]) for entry in entries]

    def load(self, model: str) -> None:
        self._asked("load_model", model)

    def unload(self, model: str) -> None:
        self._asked("unload_model", model)

    def close(self) -> None:
        self._asked("close")
        if self._loop:
            self._loop.close()


class MessageClient:
    """One that sends NVIDIA's messages, with tensors in typed lists or, if ``raw``, as bytes. ``call`` is left to the
    library behind it."""

    def __init__(self, raw: bool) -> None:
        self._raw = raw

    def call(self, method: str, request: Any, reply: Any, options: Options = PLAIN) -> Any:
        """Call ``SERVICE`` or, for a whole path, another service. ``Refused`` if the server refused it."""
        raise NotImplementedError

    def infer(self, case: Case, request_id: str, options: Options = PLAIN) -> Answered:
        message = request_of(case, request_id, self._raw)
        reply = self.call("ModelInfer", message, messages.ModelInferResponse, options)
        assert bool(reply.raw_output_contents) is self._raw, "the answer comes in another form than the request"
        return answer_of(reply)

    def live(self) -> bool:
        return bool(self.call("ServerLive", messages.ServerLiveRequest(), messages.ServerLiveResponse).live)

    def ready(self) -> bool:
        return bool(self.call("ServerReady", messages.ServerReadyRequest(), messages.ServerReadyResponse).ready)

    def model_ready(self, model: str, version: str) -> bool:
        asked = messages.ModelReadyRequest(name=model, version=version)
        return bool(self.call("ModelReady", asked, messages.ModelReadyResponse).ready)

    def server(self) -> tuple[str, str, list[str]]:
        reply = self.call("ServerMetadata", messages.ServerMetadataRequest(), messages.ServerMetadataResponse)
        return reply.name, reply.version, list(reply.extensions)

    def model(self, model: str, version: str) -> Described:
        asked = messages.ModelMetadataRequest(name=model, version=version)
        reply = self.call("ModelMetadata", asked, messages.ModelMetadataResponse)
        tensors = [
            [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in side]
            for side in (reply.inputs, reply.outputs)
        ]
        return Described(reply.name, list(reply.versions), *tensors)

    def index(self) -> list[tuple[str, str, str]]:
        reply = self.call("RepositoryIndex", messages.RepositoryIndexRequest(), messages.RepositoryIndexResponse)
        return [(entry.name, entry.version, entry.state) for entry in reply.models]

    # NVIDIA has the model's name in field 2; KServe has it in field 1, where NVIDIA has a repository's.

    def load(self, model: str) -> None:
        asked = messages.RepositoryModelLoadRequest(model_name=model)
        self.call("RepositoryModelLoad", asked, messages.RepositoryModelLoadResponse)

    def unload(self, model: str) -> None:
        asked = messages.RepositoryModelUnloadRequest(repository_name=model)
        self.call("RepositoryModelUnload", asked, messages.RepositoryModelUnloadResponse)


def path_of(method: str) -> str:
    return method if method.startswith("/") else SERVICE + method


def request_of(case: Case, request_id: str, as_bytes: bool) -> Any:
    """The case as a ``ModelInferRequest``."""
    message = messages.ModelInferRequest(model_name=case.model, model_version=case.version, id=request_id)
    for sent in case.inputs:
        tensor = message.inputs.add(name=sent.name, datatype=sent.datatype, shape=sent.array.shape)
        if as_bytes:
            message.raw_input_contents.append(raw(sent.array))
        else:
            getattr(tensor.contents, LISTS[sent.datatype]).extend(elements(sent))
    for name in case.outputs or ():
        message.outputs.add(name=name)
    return message


def elements(sent: Sent) -> Sequence[Any]:
    flat = sent.array.ravel().tolist()
    return [item.encode() if isinstance(item, str) else item for item in flat]


def answer_of(reply: Any) -> Answered:
    outputs = []
    for at, output in enumerate(reply.outputs):
        if reply.raw_output_contents:
            assert not output.HasField("contents")
            flat = from_raw(reply.raw_output_contents[at], output.datatype)
        else:
            flat = listed(output)
        outputs.append(Output(output.name, output.datatype, flat.reshape(tuple(output.shape))))
    return Answered(reply.model_name, reply.model_version, reply.id, outputs)


def listed(output: Any) -> Array:
    """The elements in the only list that may have any."""
    wanted = LISTS[output.datatype]
    assert [field.name for field, _ in output.contents.ListFields()] == [wanted]
    return np.array(list(getattr(output.contents, wanted)), dtype=DTYPES[output.datatype])
