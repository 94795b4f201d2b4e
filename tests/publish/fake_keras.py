"""What stands for TensorFlow's environment where none is needed: a program called as ``keras_script.py`` is called.

The "model" is a JSON file: weights [n, k], and how this fake is to behave. It answers ``x @ weights``, and makes ONNX
and LiteRT of it, right or wrong. It is started by a shell script with the interpreter of the tests.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from keelway.publish.examples import Batch, load_batches, save_batches


def main(step: str, folder: Path) -> int:
    request = json.loads((folder / "request.json").read_text())
    model = json.loads(Path(request["file"]).read_text())
    weights = np.array(model["weights"], np.float32)
    if step == "describe":
        return describe(model, weights, folder, trusted=request["trusted"])
    made = load_batches(folder / "examples.npz")
    left = {int(place): raised for place, raised in model.get("unanswered", {}).items()}
    answers = [
        Batch(batch.kind, {} if place in left else {"y": batch.arrays["x"] @ weights})
        for place, batch in enumerate(made)
    ]
    save_batches(folder / "answers.npz", answers[: model.get("answered", len(answers))])
    if model.get("examples_changed"):
        save_batches(folder / "examples.npz", [Batch("sample", {"x": np.zeros((1, len(weights)), np.float32)})])
    candidates = [candidate(runtime, model, weights, folder) for runtime in ("litert", "onnx")]
    result = {"unanswered": left, "called": "predict_on_batch", "micros": 1e9, "candidates": candidates}
    (folder / "converted.json").write_text(json.dumps(result))
    return 0


def describe(model: dict[str, Any], weights: np.ndarray[Any, Any], folder: Path, *, trusted: bool) -> int:
    if "said" in model:
        failure = {"error": "CorruptArtifact", "message": "Keras cannot open the file", "said": model["said"]}
        (folder / "failure.json").write_text(json.dumps(failure))
        return 1
    described = {
        "model": f"Fake, trusted: {trusted}",
        "inputs": [{"name": "x", "dtype": model.get("dtype", "float32"), "shape": [-1, len(weights)]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, weights.shape[1]]}],
        "versions": {"keras": "3.99"},
        "saved_with": model.get("saved_with", "3.99"),
    }
    (folder / "described.json").write_text(json.dumps(described))
    return 0


def candidate(runtime: str, model: dict[str, Any], weights: np.ndarray[Any, Any], folder: Path) -> dict[str, Any]:
    behaviour = model.get(runtime, "right")
    if behaviour not in ("right", "wrong", "slow"):
        return {"runtime": runtime, "file": "", "said": behaviour}
    file = "model.onnx" if runtime == "onnx" else "model.tflite"
    kept = weights + np.float32(0.01 if behaviour == "wrong" else 0)
    # A slow one takes a long way around: the sign is changed a thousand times.
    (to_onnx if runtime == "onnx" else to_litert)(folder / file, kept, 1000 if behaviour == "slow" else 0)
    return {"runtime": runtime, "file": file, "said": ""}


def to_onnx(path: Path, weights: np.ndarray[Any, Any], detours: int) -> None:
    names = ["x", *(f"t{at}" for at in range(detours)), "y"]
    nodes = [helper.make_node("MatMul", ["x", "w"], [names[1]])]
    nodes += [helper.make_node("Neg", [names[at]], [names[at + 1]]) for at in range(1, detours + 1)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(weights)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def to_litert(path: Path, weights: np.ndarray[Any, Any], detours: int) -> None:
    from tests.tflite import Given, Step, save

    width = weights.shape[1]
    names = ["x", *(f"t{at}" for at in range(detours)), "y"]
    tensors = [Given("x", shape=(-1, len(weights))), Given("w", shape=(width, len(weights)), value=weights.T.copy())]
    tensors += [Given(name, shape=(-1, width)) for name in names[1:]]
    steps = [Step("FULLY_CONNECTED", ["x", "w", ""], [names[1]], schema.FullyConnectedOptionsT())]
    steps += [Step("NEG", [names[at]], [names[at + 1]], schema.NegOptionsT()) for at in range(1, detours + 1)]
    save(path, tensors, steps, ["x"], ["y"], {"inputs": {"x": "x"}, "outputs": {"y": "y"}})


if __name__ == "__main__":
    sys.exit(main(sys.argv[-2], Path(sys.argv[-1])))
