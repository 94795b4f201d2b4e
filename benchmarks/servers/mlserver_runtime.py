"""MLServer with a runtime of our own for ONNX, or with its own for scikit-learn.

``mlserver_runtime HTTP GRPC METRICS [sklearn]`` writes the two settings files into the working folder and becomes
``mlserver start``; that imports ``Forest`` from here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.servers.engine import BATCH, BATCH_SECONDS, load


class Forest(MLModel):
    async def load(self) -> bool:
        self.run, self.outputs_of_model = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        found = zip(self.outputs_of_model, self.run(rows), strict=True)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in found]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def settings(http: int, grpc: int, metrics: int) -> dict[str, object]:
    """Inference in the server's own process: a hop to a worker process costs more than this model."""
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    return {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False}


if __name__ == "__main__":
    Path("settings.json").write_text(json.dumps(settings(*(int(port) for port in sys.argv[1:4]))))
    if sys.argv[4:] == ["sklearn"]:
        where = {"uri": os.environ["BENCH_PIPELINE"]}
        model = {"name": "leads", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": where}
    else:
        model = {"name": "forest", "implementation": "benchmarks.servers.mlserver_runtime.Forest"}
        if BATCH > 1:
            model |= {"max_batch_size": BATCH, "max_batch_time": BATCH_SECONDS}
    Path("model-settings.json").write_text(json.dumps(model))
    command = str(Path(sys.executable).with_name("mlserver"))
    os.execv(command, [command, "start", "."])
