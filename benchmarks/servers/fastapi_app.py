"""What a team would write today: FastAPI, pydantic and ONNX Runtime, on uvicorn with uvloop."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.servers.engine import load


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Request(BaseModel):
    inputs: list[Tensor]


class Output(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Answer(BaseModel):
    model_name: str
    outputs: list[Output]


application = FastAPI()
_run, _names = load()
_DATATYPES = {"f": "FP32", "i": "INT64"}


@application.post("/v2/models/forest/infer")
async def infer(request: Request) -> Answer:
    tensor = request.inputs[0]
    outputs: list[Any] = _run(np.array(tensor.data, dtype=np.float32).reshape(tensor.shape))
    return Answer(
        model_name="forest",
        outputs=[
            Output(name=name, datatype=_DATATYPES[out.dtype.kind], shape=list(out.shape), data=out.ravel().tolist())
            for name, out in zip(_names, outputs, strict=True)
        ],
    )


if __name__ == "__main__":
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
    )
