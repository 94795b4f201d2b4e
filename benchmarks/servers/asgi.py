"""The floor under REST: a raw ASGI application on uvicorn with no feature at all.

``asgi PORT`` runs the same inference on V2 JSON; ``asgi PORT echo`` reads the body and answers a constant.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
import orjson
import uvicorn

from benchmarks.servers.engine import DATATYPES, load

CONSTANT = (
    b'{"model_name":"forest","model_version":"1","outputs":[{"name":"label","datatype":"INT64","shape":[1],"data":[0]},'
    b'{"name":"probabilities","datatype":"FP32","shape":[1,2],"data":[0.98,0.02]}]}'
)
Answer = Callable[[bytes], bytes]
Application = Callable[[Any, Any, Any], Awaitable[None]]


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None


def inference() -> Answer:
    """The function from the bytes of a V2 request to the bytes of its answer."""
    decode = msgspec.json.Decoder(_Request).decode
    run, names = load()

    def answer(body: bytes) -> bytes:
        tensor = decode(body).inputs[0]
        outputs = run(np.array(tensor.data, dtype=np.float32).reshape(tensor.shape))
        described = [
            {"name": name, "datatype": DATATYPES[out.dtype.kind], "shape": out.shape, "data": out.ravel()}
            for name, out in zip(names, outputs, strict=True)
        ]
        reply = {"model_name": "forest", "model_version": "1", "outputs": described}
        return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)

    return answer


def application(answer: Answer) -> Application:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        reply = answer(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    return serve


if __name__ == "__main__":
    uvicorn.run(
        application((lambda _: CONSTANT) if "echo" in sys.argv else inference()),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="error",
        access_log=False,
    )
