"""A program for the environment of KServe's client: calls come as lines of JSON and are answered so. Its arguments are
the transport, the server's address and the encoding. ``process_clients.py`` starts it; nothing imports it."""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64decode, b64encode
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.infer_type import RequestedOutput, deserialize_bytes_tensor, serialize_byte_tensor
from kserve.utils.numpy_codec import to_np_dtype


def request_of(asked: dict[str, Any], binary: bool) -> InferRequest:
    inputs = []
    for sent in asked["inputs"]:
        data = b64decode(sent["raw"])
        if sent["datatype"] == "BYTES":
            array = deserialize_bytes_tensor(data)
        else:
            array = np.frombuffer(data, to_np_dtype(sent["datatype"]))
        tensor = InferInput(sent["name"], sent["shape"], sent["datatype"])
        tensor.set_data_from_numpy(array.reshape(sent["shape"]), binary_data=binary)
        inputs.append(tensor)
    outputs = None if asked["outputs"] is None else [RequestedOutput(name) for name in asked["outputs"]]
    return InferRequest(
        asked["model"], inputs, asked["id"], request_outputs=outputs, model_version=asked["version"] or None
    )


def answer_of(reply: Any) -> dict[str, Any]:
    outputs = []
    for output in reply.outputs:
        array = output.as_numpy()
        data = serialize_byte_tensor(array).item() if output.datatype == "BYTES" else array.tobytes()
        outputs.append(
            {
                "name": output.name,
                "datatype": output.datatype,
                "shape": array.shape,
                "raw": b64encode(data).decode(),
            }
        )
    return {"model": reply.model_name, "version": reply.model_version, "id": reply.id, "outputs": outputs}


class Rest:
    def __init__(self, address: str, encoding: str) -> None:
        self._binary = encoding == "binary"
        self._address = address
        self._client = InferenceRESTClient(RESTConfig(protocol="v2"))

    async def call(self, asked: dict[str, Any]) -> Any:
        match asked["call"]:
            case "live":
                return await self._client.is_server_live(self._address)
            case "ready":
                return await self._client.is_server_ready(self._address)
            case "model_ready":
                return await self._client.is_model_ready(self._address, asked["model"])
        # The client has no argument for the version; it is a part of the path.
        model = f"{asked['model']}/versions/{asked['version']}" if asked["version"] else asked["model"]
        request = request_of(asked, self._binary)
        if self._binary:
            request.parameters = {"binary_data_output": True}
        return answer_of(await self._client.infer(self._address, request, model))


class Grpc:
    def __init__(self, address: str, encoding: str) -> None:
        self._raw = encoding == "raw"
        self._client = InferenceGRPCClient(address)
        self._stub = self._client._client_stub

    async def call(self, asked: dict[str, Any]) -> Any:
        match asked["call"]:
            case "live":
                return await self._client.is_server_live()
            case "ready":
                return await self._client.is_server_ready()
            case "model_ready":
                return await self._client.is_model_ready(asked["model"])
            case "load":
                request = messages.RepositoryModelLoadRequest(model_name=asked["model"])
                return (await self._stub.RepositoryModelLoad(request)).isLoaded
            case "unload":
                request = messages.RepositoryModelUnloadRequest(model_name=asked["model"])
                return (await self._stub.RepositoryModelUnload(request)).isUnloaded
        return answer_of(await self._client.infer(request_of(asked, self._raw)))


async def opened(transport: str, address: str, encoding: str) -> Rest | Grpc:
    return (Rest if transport == "REST" else Grpc)(address, encoding)


def main() -> None:
    # What the library prints must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    with asyncio.Runner() as loop:
        client = loop.run(opened(*sys.argv[1:]))
        for line in sys.stdin:
            try:
                answer: Any = {"value": loop.run(client.call(json.loads(line)))}
            except grpc.RpcError as error:
                answer = {"refused": error.details(), "status": error.code().name}
            except httpx.HTTPStatusError as error:
                answer = {"refused": error.response.json()["error"], "status": error.response.status_code}
            print(json.dumps(answer), file=answers, flush=True)


main()
