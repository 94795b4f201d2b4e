"""The floor: a raw ASGI application on uvicorn with the same inference and no feature at all."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import numpy as np
import orjson
import uvicorn

from benchmarks.servers.engine import load


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None


_decode = msgspec.json.Decoder(_Request).decode
_run, _names = load()
_DATATYPES = {"f": "FP32", "i": "INT64"}


async def application(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    tensor = _decode(body).inputs[0]
    outputs = _run(np.array(tensor.data, dtype=np.float32).reshape(tensor.shape))
    reply = orjson.dumps(
        {
            "model_name": "forest",
            "model_version": "1",
            "outputs": [
                {"name": name, "datatype": _DATATYPES[out.dtype.kind], "shape": out.shape, "data": out.ravel()}
                for name, out in zip(_names, outputs, strict=True)
            ],
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply})


if __name__ == "__main__":
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="error",
        access_log=False,
    )
