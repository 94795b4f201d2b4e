"""What the servers are asked and how their answers are read: one ``Format`` for each wire format. Pure.

Rows come as a data frame with the names of the model's features. What is read are probabilities, [rows, 2].
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from keelway.wire.open_inference_pb2 import ModelInferRequest, ModelInferResponse

Array = np.ndarray[Any, Any]
JSON = {"Content-Type": "application/json"}
BINARY_LENGTH = "Inference-Header-Content-Length"
_FRAME = struct.Struct(">BI")  # gRPC: compressed or not, and the length of the message that follows.


class Body(NamedTuple):
    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Format:
    """``read`` takes the bytes of an answer and its headers, in lower case; ``None`` where the answer is a constant."""

    write: Callable[[pd.DataFrame], Body]
    read: Callable[[bytes, Mapping[str, str]], Array] | None


def framed(message: bytes) -> bytes:
    """``message`` as the body of a gRPC call: five bytes before it, not compressed."""
    return _FRAME.pack(0, len(message)) + message


def _json(document: Any) -> Body:
    return Body(json.dumps(document, separators=(",", ":")).encode(), JSON)


def _tensor(rows: pd.DataFrame) -> dict[str, Any]:
    return {"name": "input", "shape": list(rows.shape), "datatype": "FP32"}


def _v2(rows: pd.DataFrame) -> Body:
    return _json({"inputs": [_tensor(rows) | {"data": rows.to_numpy().ravel().tolist()}]})


def _v2_binary(rows: pd.DataFrame) -> Body:
    raw = rows.to_numpy(np.float32).tobytes()
    described = _tensor(rows) | {"parameters": {"binary_data_size": len(raw)}}
    header = _json({"inputs": [described], "parameters": {"binary_data_output": True}}).content
    return Body(header + raw, {"Content-Type": "application/octet-stream", BINARY_LENGTH: str(len(header))})


def _v2_columns(rows: pd.DataFrame) -> Body:
    """One input for each column, which MLServer makes a data frame of."""
    inputs = [
        {"name": name, "shape": [len(rows), 1], "datatype": "INT64", "data": rows[name].tolist()} for name in rows
    ]
    return _json({"parameters": {"content_type": "pd"}, "inputs": inputs, "outputs": [{"name": "predict_proba"}]})


def _grpc(rows: pd.DataFrame) -> Body:
    request = ModelInferRequest(model_name="forest")
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.to_numpy(np.float32).tobytes())
    return Body(request.SerializeToString(), {"content-type": "application/grpc", "te": "trailers"})


def _shaped(output: Any, flat: Any) -> Array:
    return np.asarray(flat, np.float64).reshape(list(output["shape"]))


def _read_v2(content: bytes, headers: Mapping[str, str]) -> Array:
    length = int(headers.get(BINARY_LENGTH.lower()) or len(content))
    raw = memoryview(content)[length:]
    for output in json.loads(content[:length])["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size", 0)
        if output["name"] in ("probabilities", "predict_proba"):
            return _shaped(output, np.frombuffer(raw[:size], np.float32) if size else output["data"])
        raw = raw[size:]
    raise ValueError("no probabilities among the outputs")


def _read_grpc(content: bytes, _: Mapping[str, str]) -> Array:
    reply = ModelInferResponse.FromString(content)
    for place, output in enumerate(reply.outputs):
        if output.name == "probabilities":
            raw = reply.raw_output_contents
            flat = np.frombuffer(raw[place], np.float32) if raw else output.contents.fp32_contents
            return np.asarray(flat, np.float64).reshape(list(output.shape))
    raise ValueError("no probabilities among the outputs")


def _field(name: str) -> Callable[[bytes, Mapping[str, str]], Array]:
    return lambda content, _: np.asarray(json.loads(content)[name], np.float64)


def _instances(rows: pd.DataFrame) -> Body:
    return _json({"instances": rows.to_numpy().tolist()})


def _named(rows: pd.DataFrame) -> Body:
    return _json({"instances": rows.to_dict(orient="records")})


V2 = Format(_v2, _read_v2)
V2_BINARY = Format(_v2_binary, _read_v2)
V2_COLUMNS = Format(_v2_columns, _read_v2)
V2_CONSTANT = Format(_v2, None)
GRPC = Format(_grpc, _read_grpc)
GRPC_CONSTANT = Format(_grpc, None)
INSTANCES = Format(_instances, _field("predictions"))
ARRAY = Format(_instances, lambda content, _: np.asarray(json.loads(content), np.float64))
NAMED = Format(_named, _field("predictions"))
NAMED_KEELWAY = Format(_named, _field("probabilities"))
