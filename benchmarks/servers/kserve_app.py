"""KServe's Python server with a model of our own; one process, and without its three lines of log a request."""

from __future__ import annotations

import sys
from typing import Any

import kserve.logging
import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.servers.engine import DATATYPES, load


class Forest(Model):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.run, self.names = load()
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        rows = payload.inputs[0].as_numpy().astype(np.float32, copy=False)
        outputs = []
        for name, array in zip(self.names, self.run(rows), strict=True):
            output = InferOutput(name, list(array.shape), DATATYPES[array.dtype.kind])
            output.set_data_from_numpy(array, binary_data=False)
            outputs.append(output)
        return InferResponse(payload.id or "none", self.name, outputs)


if __name__ == "__main__":
    for logger in ("kserve.trace", "uvicorn.access"):
        kserve.logging.KSERVE_LOG_CONFIG["loggers"][logger]["level"] = "WARNING"
    http_port, grpc_port = (int(port) for port in sys.argv[1:3])
    ModelServer(
        http_port=http_port,
        grpc_port=grpc_port,
        workers=1,
        enable_latency_logging=False,
        access_log_format=None,
    ).start([Forest("forest")])
