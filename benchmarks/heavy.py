"""A model that gains from batches: about two milliseconds a run and a fifth of one for each row, all of it arithmetic.

Its sizes are chosen on the machine that measures, once; how many rows a second it really answers there is
measured in a bare loop, in each round.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from benchmarks.processes import cores

FEATURES = 30
RUN_SECONDS, ROW_SECONDS = 0.002, 0.0002
_OPSET, _IR = 18, 9


def make(folder: Path, name: str) -> pd.DataFrame:
    """Write ``name.onnx`` into ``folder``; rows it can be asked."""
    seconds = _seconds_of_a_sine()
    graph = model(int(RUN_SECONDS / seconds), int(ROW_SECONDS / seconds))
    (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
    values = np.random.default_rng(0).normal(size=(64, FEATURES)).round(4)
    return pd.DataFrame(values, columns=[f"x{place}" for place in range(FEATURES)])


def model(once: int, each: int) -> Any:
    """``input`` [rows, 30] to ``probabilities`` [rows, 2]. ``once`` sines are computed for a run, ``each`` for a row.
    Those of the run depend on all of the input, so that nothing is computed beforehand, and come to nothing."""

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(operator, inputs, [output], **attributes)

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(value, name)

    nodes = [
        node("ReduceSum", ["input", "columns"], "total", keepdims=1),
        node("Mul", ["total", "each"], "angles"),
        node("Sin", ["angles"], "waves"),
        node("ReduceMean", ["waves", "columns"], "level", keepdims=1),
        node("ReduceMax", ["input"], "largest", keepdims=0),
        node("Mul", ["largest", "once"], "common_angles"),
        node("Sin", ["common_angles"], "common_waves"),
        node("ReduceMean", ["common_waves"], "common_level", keepdims=0),
        # A mean of sines is at most one: half of it, rounded down, is nothing.
        node("Abs", ["common_level"], "size"),
        node("Mul", ["size", "half"], "less"),
        node("Floor", ["less"], "nothing"),
        node("Add", ["level", "nothing"], "score"),
        node("Sigmoid", ["score"], "yes"),
        node("Sub", ["one", "yes"], "no"),
        node("Concat", ["no", "yes"], "probabilities", axis=1),
    ]
    constants = [
        constant("columns", np.array([1], np.int64)),
        constant("each", np.linspace(0.1, 3, each, dtype=np.float32)[None, :]),
        constant("once", np.linspace(0.1, 3, once, dtype=np.float32)),
        constant("half", np.float32(0.5)),
        constant("one", np.float32(1.0)),
    ]
    shape = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", FEATURES])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 2])
    graph = helper.make_graph(nodes, "heavy", [shape], [answer], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    made.ir_version = _IR
    onnx.checker.check_model(made)
    return made


def answers(path: Path, rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    """What the model answers to ``rows``, one by one."""
    session = onnxruntime.InferenceSession(path, _options(), providers=["CPUExecutionProvider"])
    array = rows.to_numpy(np.float32)
    return np.concatenate(
        [session.run(["probabilities"], {"input": array[place : place + 1]})[0] for place in range(len(array))]
    )


def sustained(path: Path, rows: pd.DataFrame, seconds: float) -> float:
    """Rows a second of runs of ``rows``, one after the other for ``seconds``, on whatever core is free."""
    session = onnxruntime.InferenceSession(path, _options(), providers=["CPUExecutionProvider"])
    feed = {"input": rows.to_numpy(np.float32)}
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores()))
    try:
        runs, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            session.run(["probabilities"], feed)
            runs += 1
        return runs * len(rows) / (time.perf_counter() - began)
    finally:
        os.sched_setaffinity(0, here)


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def _seconds_of_a_sine() -> float:
    count = 400_000
    probe = model(count, 1).SerializeToString()
    session = onnxruntime.InferenceSession(probe, _options(), providers=["CPUExecutionProvider"])
    row = {"input": np.ones((1, FEATURES), np.float32)}
    times = []
    for _ in range(20):
        began = time.perf_counter()
        session.run(["probabilities"], row)
        times.append(time.perf_counter() - began)
    return min(times) / count
