"""Triton Inference Server, started by pytriton, with a Python callable: the wheel ships no other backend."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.servers.engine import load

run, _ = load(["label", "probabilities"])


@batch  # type: ignore[untyped-decorator]
def infer(**inputs: Any) -> dict[str, Any]:
    label, probabilities = run(inputs["input"])
    return {"label": label.reshape(-1, 1), "probabilities": probabilities}


if __name__ == "__main__":
    http_port, grpc_port, metrics_port = (int(port) for port in sys.argv[1:4])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=http_port,
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="forest",
            infer_func=infer,
            inputs=[Tensor(name="input", dtype=np.float32, shape=(30,))],
            outputs=[
                Tensor(name="label", dtype=np.int64, shape=(1,)),
                Tensor(name="probabilities", dtype=np.float32, shape=(2,)),
            ],
            config=ModelConfig(max_batch_size=64),
        )
        triton.serve()
