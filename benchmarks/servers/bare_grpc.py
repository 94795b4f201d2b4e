"""The floor under gRPC: one method, ``ModelInfer``, with no feature at all.

``bare_grpc PORT aio`` runs the same inference on grpc.aio, ``bare_grpc PORT threads`` on grpcio's pool of eight
threads; ``bare_grpc PORT echo`` is grpc.aio answering constant bytes without parsing anything.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from benchmarks.servers.engine import DATATYPES, load
from keelway.wire.open_inference_pb2 import ModelInferRequest, ModelInferResponse

SERVICE, METHOD = "inference.GRPCInferenceService", "ModelInfer"
THREADS = 8


def inference() -> Any:
    """The function from a request message with raw contents to its answer, raw too."""
    run, names = load()

    def answer(request: Any) -> Any:
        rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(list(request.inputs[0].shape))
        reply = ModelInferResponse(model_name="forest", model_version="1")
        for name, out in zip(names, run(rows), strict=True):
            reply.outputs.add(name=name, datatype=DATATYPES[out.dtype.kind], shape=out.shape)
            reply.raw_output_contents.append(out.tobytes())
        return reply

    return answer


def constant() -> bytes:
    """The bytes of an answer to one row."""
    reply = ModelInferResponse(model_name="forest", model_version="1")
    for name, out in {"label": np.zeros(1, np.int64), "probabilities": np.array([[0.98, 0.02]], np.float32)}.items():
        reply.outputs.add(name=name, datatype=DATATYPES[out.dtype.kind], shape=out.shape)
        reply.raw_output_contents.append(out.tobytes())
    encoded: bytes = reply.SerializeToString()
    return encoded


def handlers(method: Any, *, parsed: bool) -> tuple[Any, ...]:
    parsing = (
        {
            "request_deserializer": ModelInferRequest.FromString,
            "response_serializer": ModelInferResponse.SerializeToString,
        }
        if parsed
        else {}
    )
    handler = grpc.unary_unary_rpc_method_handler(method, **parsing)
    return (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)


async def serve_aio(address: str, *, echo: bool) -> None:
    server = grpc.aio.server()
    reply = constant()
    answer = (lambda _: reply) if echo else inference()

    async def method(request: Any, _: Any) -> Any:
        return answer(request)

    server.add_generic_rpc_handlers(handlers(method, parsed=not echo))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def serve_threads(address: str) -> None:
    answer = inference()
    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers(handlers(lambda request, _: answer(request), parsed=True))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    where, how = f"127.0.0.1:{sys.argv[1]}", sys.argv[2]
    if how == "threads":
        serve_threads(where)
    else:
        asyncio.run(serve_aio(where, echo=how == "echo"))
