"""What every server here shares: the same ONNX file in ONNX Runtime with one thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import onnxruntime


def load() -> tuple[Callable[[Any], Any], list[str]]:
    """A function from the input array to the outputs, and the outputs' names. ``BENCH_MODEL`` names the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    return lambda array: session.run(names, {name: array}), names
