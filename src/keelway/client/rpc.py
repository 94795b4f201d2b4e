"""The server's gRPC services: requests as a method and the bytes of a message, and what is read from the replies.

Rows go to ``keelway.v1.ModelService``, tensors as raw contents to ``inference.GRPCInferenceService``. Nothing is sent
here; see ``over_grpc.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from google.protobuf.message import DecodeError

from keelway.client.attempts import Call
from keelway.client.failures import (
    CLASSES,
    broken,
    error_of,
    not_reached,
    not_trusted,
    refused,
    strange,
    too_large,
    too_late,
)
from keelway.client.results import Inference, ModelMetadata, Predictions, ServerMetadata, confidence_of
from keelway.client.retries import Failure
from keelway.codecs.binary import decode_tensor, encode_tensor
from keelway.errors import ErrorCode, KeelwayError, PayloadTooLarge
from keelway.types import Tensor, TensorSpec
from keelway.wire import model_service_pb2 as rows_wire
from keelway.wire import open_inference_pb2 as wire

Result = TypeVar("Result")

_INFERENCE = "/inference.GRPCInferenceService/"
_ROWS = "/keelway.v1.ModelService/"

#: gRPC's numbers of the codes, as they stand in the errors of rows. A test says that they are gRPC's.
CODE_NUMBERS: Final[Mapping[int, ErrorCode]] = {
    1: ErrorCode.CANCELLED,
    3: ErrorCode.INVALID_ARGUMENT,
    4: ErrorCode.DEADLINE_EXCEEDED,
    5: ErrorCode.NOT_FOUND,
    6: ErrorCode.ALREADY_EXISTS,
    7: ErrorCode.PERMISSION_DENIED,
    8: ErrorCode.RESOURCE_EXHAUSTED,
    9: ErrorCode.FAILED_PRECONDITION,
    11: ErrorCode.OUT_OF_RANGE,
    12: ErrorCode.UNIMPLEMENTED,
    13: ErrorCode.INTERNAL,
    14: ErrorCode.UNAVAILABLE,
    15: ErrorCode.DATA_LOSS,
    16: ErrorCode.UNAUTHENTICATED,
}


class RpcRequest(msgspec.Struct, frozen=True):
    """``method`` is the whole path."""

    method: str
    body: bytes


class RpcReply(msgspec.Struct, frozen=True):
    """``body`` of a call that ended well; else ``status``, a name such as ``NOT_FOUND``, ``details`` and the trailing
    metadata."""

    body: bytes = b""
    status: str = "OK"
    details: str = ""
    metadata: Mapping[str, str] = {}


class RpcProtocol:
    """``address`` is named in errors, and so is ``max_answer_bytes``."""

    def __init__(self, address: str, max_answer_bytes: int) -> None:
        self._address = address
        self._max_answer_bytes = max_answer_bytes

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], version: str) -> Call[Predictions]:
        message = rows_wire.BatchPredictRequest(model=model, version=version)
        for row in rows:
            features = message.rows.add().features
            for name, value in row.items():
                _write(features[name], value)
        decode = partial(_predictions, count=len(rows))
        return self._call(_ROWS + "BatchPredict", message, rows_wire.BatchPredictResponse, decode)

    def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str], version: str, id: str
    ) -> Call[Inference]:
        request = wire.ModelInferRequest
        message = request(
            model_name=model,
            model_version=version,
            id=id,
            inputs=[
                request.InferInputTensor(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)
                for tensor in inputs
            ],
            outputs=[request.InferRequestedOutputTensor(name=name) for name in outputs],
            raw_input_contents=[encode_tensor(tensor.data) for tensor in inputs],
        )
        return self._call(_INFERENCE + "ModelInfer", message, wire.ModelInferResponse, _inference)

    def metadata(self, model: str, version: str) -> Call[ModelMetadata]:
        message = wire.ModelMetadataRequest(name=model, version=version)
        return self._call(_INFERENCE + "ModelMetadata", message, wire.ModelMetadataResponse, _metadata)

    def ready(self, model: str, version: str) -> Call[bool]:
        if model:
            asked = wire.ModelReadyRequest(name=model, version=version)
            return self._ask("ModelReady", asked, wire.ModelReadyResponse, lambda answer: answer.ready)
        return self._ask("ServerReady", wire.ServerReadyRequest(), wire.ServerReadyResponse, lambda it: it.ready)

    def live(self) -> Call[bool]:
        return self._ask("ServerLive", wire.ServerLiveRequest(), wire.ServerLiveResponse, lambda answer: answer.live)

    def server_metadata(self) -> Call[ServerMetadata]:
        message = wire.ServerMetadataRequest()
        return self._call(_INFERENCE + "ServerMetadata", message, wire.ServerMetadataResponse, _server_metadata)

    def _ask(self, name: str, message: Any, kind: Any, decode: Callable[[Any], bool]) -> Call[bool]:
        """A yes-or-no question, to which nobody answering is a no."""
        call = self._call(_INFERENCE + name, message, kind, decode)
        return Call(call.request, call.read, unreachable=False)

    def _call(self, method: str, message: Any, kind: Any, decode: Callable[[Any], Result]) -> Call[Result]:
        def read(reply: RpcReply) -> Result | Failure:
            if reply.status != "OK":
                return refusal(reply, self._address, self._max_answer_bytes)
            try:
                return decode(kind.FromString(reply.body))
            except (DecodeError, KeelwayError, ValueError, msgspec.DecodeError):
                return strange(self._address)

        return Call(RpcRequest(method, message.SerializeToString()), read)


def refusal(reply: RpcReply, address: str, max_answer_bytes: int) -> Failure:
    """What a status other than OK means. Only a server of ours sends a request id, which tells its word from those of
    the library, which has the same codes for what happens under way."""
    request_id = reply.metadata.get("x-request-id", "")
    if reply.status == "RESOURCE_EXHAUSTED" and "larger than max" in reply.details:
        return _not_of_the_server(reply, address, max_answer_bytes)  # gRPC's own words, whoever says them
    if request_id and reply.status in CLASSES:
        pushback = reply.metadata.get("grpc-retry-pushback-ms", "")
        wait = int(pushback) / 1000 if pushback.isdecimal() and len(pushback) < 12 else None
        field = reply.metadata.get("keelway-error-field")
        error = error_of(ErrorCode(reply.status), reply.details, field, wait, request_id)
        # Pushback that is no number, or negative, asks not to come back.
        return Failure(error) if pushback and wait is None else refused(error)
    return _not_of_the_server(reply, address, max_answer_bytes)


def _not_of_the_server(reply: RpcReply, address: str, max_answer_bytes: int) -> Failure:
    details = reply.details.lower()
    match reply.status:
        case "UNAVAILABLE" if "handshake failed" in details:
            return not_trusted(address)
        case "UNAVAILABLE":
            return not_reached(address) if "failed to connect" in details else broken(address)
        case "DEADLINE_EXCEEDED":
            return Failure(too_late(address))
        case "RESOURCE_EXHAUSTED" if "larger than max" in details:
            if "client:" in details:
                return too_large(address, max_answer_bytes)
            return Failure(PayloadTooLarge(f"the request is larger than {address} takes"))
        case "INTERNAL" | "UNKNOWN":
            return strange(address)
        case status if status in CLASSES:
            return refused(error_of(ErrorCode(status), reply.details or f"{address} answers with {status}"))
        case _:
            return strange(address)


def _write(target: rows_wire.Value, value: Any) -> None:
    """Write a plain value (``values.py``) into a message."""
    if value is None:
        target.null = rows_wire.NULL
    elif isinstance(value, bool):
        target.flag = value
    elif isinstance(value, int):
        if value < 2**63:
            target.integer = value
        else:
            target.unsigned = value
    elif isinstance(value, float):
        target.number = value
    elif isinstance(value, str):
        target.text = value
    elif isinstance(value, bytes):
        target.data = value
    else:
        target.list.SetInParent()
        for item in value:
            _write(target.list.values.add(), item)


def _read(value: rows_wire.Value) -> Any:
    """The value as JSON would have it: ``None`` for a number that is not finite."""
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null":
        return None
    if kind == "list":
        return [_read(item) for item in value.list.values]
    if kind == "number":
        return _finite(value.number)
    return getattr(value, kind)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _predictions(answer: rows_wire.BatchPredictResponse, count: int) -> Predictions:
    if len(answer.results) != count:
        raise ValueError("not one result for each row")
    predictions: list[Any] = []
    probabilities: list[list[float | None] | None] = []
    errors: dict[int, KeelwayError] = {}
    for position, result in enumerate(answer.results):
        if result.WhichOneof("outcome") == "error":
            error = result.error
            code = CODE_NUMBERS.get(error.code, ErrorCode.INTERNAL)
            errors[position] = error_of(code, error.message, error.field)
            predictions.append(None)
            probabilities.append(None)
        else:
            predictions.append(_predicted(result.prediction))
            probabilities.append([_finite(number) for number in result.prediction.probabilities])
    served = answer.served
    labels = tuple(map(_read, served.labels))
    has_probabilities = any(probabilities)
    return Predictions(
        model=served.model,
        version=served.version,
        digest=served.digest,
        policy_revision=served.policy_revision,
        request_id=served.request_id,
        time=served.time,
        predictions=tuple(predictions),
        labels=labels,
        probabilities=tuple(probabilities) if has_probabilities else (),
        confidence=confidence_of(predictions, labels, probabilities) if has_probabilities else (),
        errors=errors,
        flags=tuple(served.flags),
    )


def _predicted(prediction: rows_wire.Prediction) -> Any:
    if prediction.HasField("value"):
        return _read(prediction.value)
    outputs = {name: _read(value) for name, value in prediction.outputs.items()}
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _inference(answer: wire.ModelInferResponse) -> Inference:
    outputs = {
        output.name: decode_tensor(memoryview(raw), output.datatype, tuple(output.shape), output.name)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
    parameters = answer.parameters
    tags = parameters["tags"].string_param if "tags" in parameters else ""
    return Inference(
        model=answer.model_name,
        version=answer.model_version,
        digest=parameters["model_digest"].string_param,
        policy_revision=parameters["policy_revision"].int64_param,
        request_id=parameters["request_id"].string_param,
        outputs=outputs,
        id=answer.id,
        flags=tuple(tags.split(",")) if tags else (),
    )


def _metadata(answer: wire.ModelMetadataResponse) -> ModelMetadata:
    return ModelMetadata(
        name=answer.name,
        versions=tuple(answer.versions),
        platform=answer.platform,
        inputs=tuple(map(_spec, answer.inputs)),
        outputs=tuple(map(_spec, answer.outputs)),
        digest=answer.parameters["model_digest"].string_param,
        policy_revision=answer.parameters["policy_revision"].int64_param,
    )


def _spec(tensor: wire.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    """A tensor's description; the columns of a packed one are a JSON list in its parameters."""
    columns = tensor.parameters["columns"].string_param if "columns" in tensor.parameters else "[]"
    names = msgspec.json.decode(columns, type=tuple[str, ...])
    return TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape), names)


def _server_metadata(answer: wire.ServerMetadataResponse) -> ServerMetadata:
    return ServerMetadata(name=answer.name, version=answer.version, extensions=tuple(answer.extensions))
