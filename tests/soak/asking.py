"""A question as bytes and an answer read back, in each format; written here anew, so that a mistake of the server's own
codecs is none of the reader's too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grpc
import numpy as np
from tests.soak.judging import LIMIT, MARGIN, Told
from tests.soak.models import NAMES, Question
from tests.wire import Reply, Wire, request_bytes

from keelway.types import Array
from keelway.wire.open_inference_pb2 import ModelInferRequest, ModelInferResponse

_DTYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
_CODES = {
    200: "OK", 400: "INVALID_ARGUMENT", 408: "TOO_SLOW", 500: "INTERNAL", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_LENGTH = "Inference-Header-Content-Length"
_INFER = "/inference.GRPCInferenceService/ModelInfer"


class Format(NamedTuple):
    """``write`` makes the whole request, ``read`` takes the reply to it."""

    name: str
    write: Callable[[Question], bytes]
    read: Callable[[Question, Reply], Told]


def _headers(question: Question, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    headers = [*more]
    if question.deadline is not None:
        headers.append(("X-Request-Timeout", f"{question.deadline * 1000:g}ms"))
    if question.batch:
        headers.append(("X-Request-Priority", "batch"))
    return tuple(headers)


def _tensor(question: Question, rows: Array, **more: Any) -> dict[str, Any]:
    subject = question.subject
    return {"name": subject.tensor, "shape": list(rows.shape), "datatype": subject.datatype, **more}


def _write_json(question: Question) -> bytes:
    rows = question.rows
    body = json.dumps({"inputs": [_tensor(question, rows, data=rows.ravel().tolist())]}).encode()
    return request_bytes("POST", f"/v2/models/{question.subject.name}/infer", body, *_headers(question))


def _write_binary(question: Question) -> bytes:
    rows = question.rows
    raw = rows.tobytes()
    described = _tensor(question, rows, parameters={"binary_data_size": len(raw)})
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    headers = _headers(question, (_LENGTH, str(len(head))), ("Content-Type", "application/octet-stream"))
    return request_bytes("POST", f"/v2/models/{question.subject.name}/infer", head + raw, *headers)


def _write_rows(question: Question) -> bytes:
    named = [dict(zip(NAMES, row, strict=True)) for row in question.rows.tolist()]
    body = json.dumps({"instances": named}).encode()
    return request_bytes("POST", f"/v1/models/{question.subject.name}/predict", body, *_headers(question))


def _read_tensors(question: Question, reply: Reply) -> Told:
    size = int(reply.headers.get(_LENGTH.lower()) or len(reply.body))
    document, rest = json.loads(reply.body[:size]), memoryview(reply.body)[size:]
    outputs = {}
    for output in document["outputs"]:
        dtype, length = _DTYPES[output["datatype"]], (output.get("parameters") or {}).get("binary_data_size", 0)
        flat = np.frombuffer(rest[:length], dtype) if length else np.array(output["data"], dtype)
        rest = rest[length:]
        outputs[output["name"]] = flat.reshape(output["shape"])
    if document["model_name"] != question.subject.name:
        return Told("WRONG_MODEL", detail=document["model_name"])
    return Told("OK", document["model_version"], outputs)


def _read_rows(question: Question, reply: Reply) -> Told:
    document = reply.json
    if document["model"] != question.subject.name or "errors" in document:
        return Told("WRONG_MODEL" if "errors" not in document else "ROWS_REFUSED", detail=str(document)[:200])
    (names,) = {tuple(answers) for answers in question.pool.answers.values()}
    predictions = np.array(document["predictions"])
    if question.subject.label:
        outputs = {question.subject.label: predictions, "probabilities": np.array(document["probabilities"])}
    else:
        outputs = {names[0]: predictions}
    return Told("OK", document["model_version"], outputs)


JSON = Format("json", _write_json, _read_tensors)
BINARY = Format("binary", _write_binary, _read_tensors)
ROWS = Format("rows", _write_rows, _read_rows)


def read(form: Format, question: Question, reply: Reply) -> Told:
    """What ``reply`` says; a refusal for want of room has to say when to come back."""
    code = _CODES.get(reply.status, f"HTTP_{reply.status}")
    if code == "OK":
        return form.read(question, reply)
    if code == "UNAVAILABLE" and int(reply.headers.get("retry-after", "0")) < 1:
        return Told("UNAVAILABLE_FOREVER", detail="503 without Retry-After")
    return Told(code, detail=reply.body[:200].decode(errors="replace"))


def ask_http(wire: Wire, form: Format, question: Question) -> tuple[Told, bool]:
    """What is heard over ``wire``, and whether it may be used again."""
    try:
        wire.socket.settimeout((question.deadline or LIMIT) + MARGIN)
        wire.send(form.write(question))
        return heard(wire, form, question)
    except OSError as error:
        return lost(error), False


def heard(wire: Wire, form: Format, question: Question) -> tuple[Told, bool]:
    """The reply to ``question``, which was sent."""
    try:
        reply = wire.reply()
    except (OSError, AssertionError, KeyError, ValueError) as error:
        return lost(error), False
    if reply is None:
        return Told("BROKEN", detail="closed instead of answered"), False
    try:
        return read(form, question, reply), reply.headers.get("connection") != "close"
    except (KeyError, TypeError, ValueError) as error:
        return Told("UNREADABLE", detail=repr(error)), False


def lost(error: Exception) -> Told:
    return Told("SILENT" if isinstance(error, TimeoutError) else "BROKEN", detail=repr(error))


class Channel:
    """A connection of gRPC's own library."""

    def __init__(self, address: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self._channel = grpc.insecure_channel(address, options)
        self._call = self._channel.unary_unary(_INFER)

    def close(self) -> None:
        self._channel.close()

    def ask(self, question: Question) -> Told:
        """A deadline travels as gRPC's own, which the library itself ends with: ``judge`` sees how long it took."""
        rows = question.rows
        message = ModelInferRequest(model_name=question.subject.name, raw_input_contents=[rows.tobytes()])
        message.inputs.add(name=question.subject.tensor, datatype=question.subject.datatype, shape=rows.shape)
        metadata = [("x-request-priority", "batch")] if question.batch else []
        began, limit = time.monotonic(), question.deadline or LIMIT + MARGIN
        try:
            reply = self._call(message.SerializeToString(), timeout=limit, metadata=metadata)
        except grpc.RpcError as error:
            return self._refused(error, question, time.monotonic() - began)
        return _read_message(question, ModelInferResponse.FromString(reply))

    def _refused(self, error: Any, question: Question, waited: float) -> Told:
        code, trailing = error.code().name, dict(error.trailing_metadata() or ())
        if code == "DEADLINE_EXCEEDED" and question.deadline is None and waited >= LIMIT + MARGIN:
            return Told("SILENT", detail=error.details())
        if code == "UNAVAILABLE" and "grpc-retry-pushback-ms" not in trailing:
            return Told("BROKEN", detail=error.details())
        return Told(code, detail=f"{error.details()}"[:200])


def _read_message(question: Question, reply: ModelInferResponse) -> Told:
    if reply.model_name != question.subject.name:
        return Told("WRONG_MODEL", detail=reply.model_name)
    outputs: Mapping[str, Array] = {
        output.name: np.frombuffer(raw, _DTYPES[output.datatype]).reshape(list(output.shape))
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
    return Told("OK", reply.model_version, outputs)
