"""What every server here shares: the same ONNX file in ONNX Runtime with one thread, and the wire names of datatypes.

It runs in the environments of the peers, where keelway is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import onnxruntime

#: Rows that a server may join in one run; 1: it does not batch.
BATCH = int(os.environ.get("BENCH_BATCH", "1"))
#: Seconds that it may wait for them, where it asks for a fixed time.
BATCH_SECONDS = 0.005
DATATYPES = {"f": "FP32", "i": "INT64"}


def load(names: list[str] | None = None) -> tuple[Callable[[Any], Any], list[str]]:
    """A function from the input array, float32 [rows, features], to the outputs ``names``, or to all of them; and
    their names. ``BENCH_MODEL`` names the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    wanted = names or [output.name for output in session.get_outputs()]
    return lambda array: session.run(wanted, {name: array}), wanted


def load_probabilities() -> Callable[[Any], Any]:
    """A function from the input array to the probabilities alone, float32 [rows, 2]."""
    run, _ = load(["probabilities"])
    return lambda array: run(array)[0]
