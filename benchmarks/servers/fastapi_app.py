"""What a team would write today: FastAPI, pydantic and ONNX Runtime, on uvicorn with uvloop and httptools."""

from __future__ import annotations

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.servers.engine import load_probabilities


class Request(BaseModel):
    instances: list[list[float]]


class Answer(BaseModel):
    predictions: list[list[float]]


application = FastAPI()
probabilities = load_probabilities()


@application.post("/predict")
async def predict(request: Request) -> Answer:
    return Answer(predictions=probabilities(np.array(request.instances, dtype=np.float32)).tolist())


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(application, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False)
