"""LiteRT files made by hand, operator by operator, for tests of the runtime and of the push."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

#: Open Inference Protocol datatype, or the handle of a variable -> element type of the file.
ELEMENTS: Mapping[str, int] = {
    "BOOL": schema.TensorType.BOOL,
    "UINT8": schema.TensorType.UINT8,
    "UINT16": schema.TensorType.UINT16,
    "UINT32": schema.TensorType.UINT32,
    "UINT64": schema.TensorType.UINT64,
    "INT8": schema.TensorType.INT8,
    "INT16": schema.TensorType.INT16,
    "INT32": schema.TensorType.INT32,
    "INT64": schema.TensorType.INT64,
    "FP16": schema.TensorType.FLOAT16,
    "FP32": schema.TensorType.FLOAT32,
    "FP64": schema.TensorType.FLOAT64,
    "BYTES": schema.TensorType.STRING,
    "RESOURCE": schema.TensorType.RESOURCE,
}


class Given(NamedTuple):
    """A tensor of the graph. ``shape`` may hold -1; ``value`` makes it a constant."""

    name: str
    datatype: str = "FP32"
    shape: Sequence[int] = (-1, 2)
    value: Any = None
    scale: float = 0.0
    zero: int = 0
    variable: bool = False


class Step(NamedTuple):
    """An operator: its name in the schema's ``BuiltinOperator``, or ``custom:NAME``."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    options: Any = None


def save(
    path: Path,
    tensors: Sequence[Given],
    steps: Sequence[Step],
    inputs: Sequence[str],
    outputs: Sequence[str],
    signature: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """``signature`` holds ``inputs`` and ``outputs``: the name a caller uses -> the name of the tensor."""
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    places = {tensor.name: at for at, tensor in enumerate(tensors)}
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(tensor, model) for tensor in tensors]
    graph.operators = [_operator(step, places, model, at) for at, step in enumerate(steps)]
    graph.inputs = [places[name] for name in inputs]
    graph.outputs = [places[name] for name in outputs]
    model.subgraphs = [graph]
    if signature is not None:
        model.signatureDefs = [_signature(signature, places)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def doubler(path: Path, shape: Sequence[int] = (-1, 2), datatype: str = "FP32") -> Path:
    """y = x + x"""
    return save(
        path,
        [Given("x", datatype, shape), Given("y", datatype, shape)],
        [Step("ADD", ["x", "x"], ["y"], schema.AddOptionsT())],
        ["x"],
        ["y"],
    )


def same(path: Path, datatype: str, shape: Sequence[int] = (-1, 2), wanted: Sequence[int] = (-1, 2)) -> Path:
    """y = x, of any datatype."""
    target = np.array(wanted, np.int32)
    return save(
        path,
        [Given("x", datatype, shape), Given("target", "INT32", target.shape, target), Given("y", datatype, shape)],
        [Step("RESHAPE", ["x", "target"], ["y"])],
        ["x"],
        ["y"],
    )


def _tensor(given: Given, model: Any) -> Any:
    tensor = schema.TensorT()
    tensor.name = given.name
    tensor.type = ELEMENTS[given.datatype]
    tensor.shape = [max(size, 1) for size in given.shape]
    tensor.shapeSignature = list(given.shape) if -1 in given.shape else None
    tensor.isVariable = given.variable
    tensor.buffer = 0
    if given.value is not None:
        data = schema.BufferT()
        data.data = np.frombuffer(np.asarray(given.value).tobytes(), np.uint8)
        model.buffers.append(data)
        tensor.buffer = len(model.buffers) - 1
    if given.scale:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = [given.scale]
        tensor.quantization.zeroPoint = [given.zero]
    return tensor


def _operator(step: Step, places: Mapping[str, int], model: Any, at: int) -> Any:
    code = schema.OperatorCodeT()
    code.version = 1
    if step.operator.startswith("custom:"):
        code.builtinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = step.operator.removeprefix("custom:")
    else:
        code.builtinCode = getattr(schema.BuiltinOperator, step.operator)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    model.operatorCodes = [*(model.operatorCodes or []), code]
    operator = schema.OperatorT()
    operator.opcodeIndex = at
    operator.inputs = [places[name] if name else -1 for name in step.inputs]
    operator.outputs = [places[name] for name in step.outputs]
    if step.options is not None:
        operator.builtinOptions = step.options
        kind = type(step.options).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    return operator


def _signature(names: Mapping[str, Mapping[str, str]], places: Mapping[str, int]) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    signature.subgraphIndex = 0
    signature.inputs = [_named(name, places[tensor]) for name, tensor in names["inputs"].items()]
    signature.outputs = [_named(name, places[tensor]) for name, tensor in names["outputs"].items()]
    return signature


def _named(name: str, place: int) -> Any:
    entry = schema.TensorMapT()
    entry.name = name
    entry.tensorIndex = place
    return entry
