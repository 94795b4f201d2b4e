"""FastAPI in front of the scikit-learn pipeline as it was trained: rows by name become a data frame, no conversion."""

from __future__ import annotations

import os
import sys

import joblib
import pandas as pd
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Request(BaseModel):
    instances: list[dict[str, float]]


class Answer(BaseModel):
    predictions: list[list[float]]


application = FastAPI()
model = joblib.load(os.environ["BENCH_PIPELINE"])


# No coroutine: a call of some milliseconds belongs into FastAPI's threads.
@application.post("/predict")
def predict(request: Request) -> Answer:
    return Answer(predictions=model.predict_proba(pd.DataFrame(request.instances)).tolist())


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(application, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False)
