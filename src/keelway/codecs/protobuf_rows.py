"""keelway's own protobuf format: rows of named values, as ``keelway.v1.ModelService`` has them. One row or many.

The counterpart of ``rows.py`` on gRPC: bad rows are answered beside the good ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from keelway.clock import rfc3339
from keelway.codecs.limits import DEFAULT_MAX_NESTING
from keelway.codecs.protobuf import PROTOBUF
from keelway.errors import ErrorCode, KeelwayError, MalformedRequest
from keelway.ports import Encoded
from keelway.types import Array, InferenceRequest, InferenceResponse, RowRequest
from keelway.wire.model_service_pb2 import (
    NULL,
    BatchPredictRequest,
    BatchPredictResponse,
    List,
    Prediction,
    PredictRequest,
    PredictResponse,
    RowError,
    RowResult,
    Served,
    Value,
)

#: The numbers of gRPC's canonical codes. A test says that they are complete and gRPC's.
CODE_NUMBERS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.CANCELLED: 1,
    ErrorCode.INVALID_ARGUMENT: 3,
    ErrorCode.DEADLINE_EXCEEDED: 4,
    ErrorCode.NOT_FOUND: 5,
    ErrorCode.ALREADY_EXISTS: 6,
    ErrorCode.PERMISSION_DENIED: 7,
    ErrorCode.RESOURCE_EXHAUSTED: 8,
    ErrorCode.FAILED_PRECONDITION: 9,
    ErrorCode.OUT_OF_RANGE: 11,
    ErrorCode.UNIMPLEMENTED: 12,
    ErrorCode.INTERNAL: 13,
    ErrorCode.UNAVAILABLE: 14,
    ErrorCode.DATA_LOSS: 15,
    ErrorCode.UNAUTHENTICATED: 16,
}


class PredictCodec:
    """One row: ``PredictRequest`` in, ``PredictResponse`` out. ``max_nesting`` caps the depth of a value."""

    def __init__(self, max_nesting: int = DEFAULT_MAX_NESTING) -> None:
        self._max_nesting = max_nesting

    def parse(self, body: bytes, header_length: int | None) -> InferenceRequest:
        message = _decoded(PredictRequest, body)
        row = _row(message.features, self._max_nesting)
        return RowRequest([row], model=message.model, selector=message.version or None)

    def encode(self, response: InferenceResponse, request: InferenceRequest) -> Encoded:
        (prediction,) = _predictions(response)
        message = PredictResponse(prediction=prediction, served=_served(response))
        return Encoded(message.SerializeToString(), PROTOBUF)


class BatchPredictCodec:
    """Many rows: ``BatchPredictRequest`` in, ``BatchPredictResponse`` out."""

    def __init__(self, max_nesting: int = DEFAULT_MAX_NESTING) -> None:
        self._max_nesting = max_nesting

    def parse(self, body: bytes, header_length: int | None) -> InferenceRequest:
        message = _decoded(BatchPredictRequest, body)
        rows = [_row(row.features, self._max_nesting) for row in message.rows]
        return RowRequest(rows, model=message.model, selector=message.version or None)

    def encode(self, response: InferenceResponse, request: InferenceRequest) -> Encoded:
        predictions = _predictions(response)
        errors = response.row_errors
        positions = range(len(predictions)) if response.positions is None else response.positions
        results = {position: RowResult(prediction=it) for position, it in zip(positions, predictions, strict=True)}
        results |= {position: RowResult(error=_row_error(error)) for position, error in errors.items()}
        message = BatchPredictResponse(
            results=[results[position] for position in sorted(results)], served=_served(response)
        )
        return Encoded(message.SerializeToString(), PROTOBUF)


def _decoded(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError:
        raise MalformedRequest(f"the message is not a {kind.DESCRIPTOR.name}") from None


def _row(features: Mapping[str, Value], max_nesting: int) -> dict[str, Any]:
    return {name: python_value(value, max_nesting) for name, value in features.items()}


def python_value(value: Value, max_nesting: int) -> Any:
    """The value as JSON would have it; ``bytes`` for data. ``MalformedRequest`` if lists nest deeper than
    ``max_nesting``."""
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null":
        return None
    if kind == "list":
        if max_nesting < 1:
            raise MalformedRequest("a value nests its lists too deep")
        return [python_value(item, max_nesting - 1) for item in value.list.values]
    return getattr(value, kind)


def wire_value(value: Any) -> Value:
    """A scalar, ``None`` or nested list of Python or NumPy as a ``Value``."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None:
        return Value(null=NULL)
    if isinstance(value, bool):
        return Value(flag=value)
    if isinstance(value, int):
        return Value(integer=value) if value < 2**63 else Value(unsigned=value)
    if isinstance(value, float):
        return Value(number=value)
    if isinstance(value, list):
        return Value(list=List(values=map(wire_value, value)))
    if isinstance(value, bytes):
        try:
            return Value(text=value.decode())
        except UnicodeDecodeError:
            return Value(data=value)
    return Value(text=str(value))


def _predictions(response: InferenceResponse) -> Sequence[Prediction]:
    """One for each row that was run; one in all for a model without a batch axis."""
    arrays = {tensor.name: tensor.data for tensor in response.outputs}
    if response.rows is None:
        return [_prediction(arrays, response)]
    return [_prediction({name: array[row] for name, array in arrays.items()}, response) for row in range(response.rows)]


def _prediction(row: Mapping[str, Array], response: InferenceResponse) -> Prediction:
    roles = response.roles
    if roles.label not in row:
        return Prediction(outputs={name: wire_value(value) for name, value in row.items()})
    value = wire_value(row[roles.label])
    if roles.probabilities not in row:
        return Prediction(value=value)
    probabilities = np.asarray(row[roles.probabilities], dtype=np.float64).ravel().tolist()
    return Prediction(
        value=value,
        confidence=_confidence(python_value(value, 1), roles.labels, probabilities),
        probabilities=probabilities,
    )


def _confidence(label: Any, labels: Sequence[Any], probabilities: Sequence[float]) -> float | None:
    """The probability of the predicted label; ``None`` if the two do not belong together."""
    if label in labels and len(labels) == len(probabilities):
        return probabilities[list(labels).index(label)]
    return None


def _row_error(error: Exception) -> RowError:
    if not isinstance(error, KeelwayError):
        return RowError(code=CODE_NUMBERS[ErrorCode.INTERNAL], message="this row could not be answered")
    return RowError(code=CODE_NUMBERS[error.code], message=error.message, field=error.field or "")


def _served(response: InferenceResponse) -> Served:
    return Served(
        model=response.model,
        version=response.version,
        digest=response.model_digest,
        policy_revision=response.policy_revision,
        request_id=response.request_id,
        time=rfc3339(response.served_at),
        latency_us=round(response.latency * 1e6),
        labels=[wire_value(label) for label in response.roles.labels],
        flags=response.tags,
    )
