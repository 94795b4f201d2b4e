"""The people's format: rows of named values in, predictions with labels and probabilities out.

``{"instances": [{"age": 41, …}, …]}`` or ``{"features": [...]}``: one row or many, in the model's order, or one object.
Bad rows are answered beside the good ones: ``null`` in their place and an entry in ``errors``. Bytes that are no text
are ``{"b64": …}``, which binding reads, since it knows which features may be bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson

from keelway.clock import rfc3339
from keelway.codecs.json import JSON, json_rows
from keelway.codecs.limits import DEFAULT_MAX_NESTING, check_nesting
from keelway.errors import KeelwayError, MalformedRequest
from keelway.ports import Encoded
from keelway.types import Array, InferenceRequest, InferenceResponse, RowRequest

_ONE_OF = 'the body must be an object with "instances" (a list of rows) or "features" (one row or many)'


class _Body(msgspec.Struct, frozen=True):
    instances: list[Any] | None = None
    features: list[Any] | dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Body).decode


class RowCodec:
    """``max_nesting`` caps the depth of the body."""

    def __init__(self, max_nesting: int = DEFAULT_MAX_NESTING) -> None:
        self._max_nesting = max_nesting

    def parse(self, body: bytes, header_length: int | None) -> InferenceRequest:
        refuse_binary(header_length)
        check_nesting(body, self._max_nesting)
        request = decode_json(body, _decode)
        if (request.instances is None) == (request.features is None):
            raise MalformedRequest(_ONE_OF)
        if request.instances is not None:
            return RowRequest(request.instances)
        features = request.features
        if isinstance(features, list) and features and isinstance(features[0], list | dict):
            return RowRequest(features)
        return RowRequest([features])

    def encode(self, response: InferenceResponse, request: InferenceRequest) -> Encoded:
        document: dict[str, Any] = {
            "model": response.model,
            "model_version": response.version,
            "model_digest": response.model_digest,
            "policy_revision": response.policy_revision,
            "request_id": response.request_id,
            "time": rfc3339(response.served_at),
        }
        document |= predictions(response)
        if response.row_errors:
            document["errors"] = [row_error(position, error) for position, error in sorted(response.row_errors.items())]
        if response.tags:
            document["flags"] = list(response.tags)
        return Encoded(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), JSON)


def predictions(response: InferenceResponse) -> dict[str, Any]:
    """``predictions`` in the caller's order of rows, with ``labels`` and ``probabilities`` where the model has them.

    A model without such roles answers a list of values (one output) or of objects (several)."""
    roles = response.roles
    outputs = {tensor.name: tensor.data for tensor in response.outputs}
    answer: dict[str, Any] = {}
    if roles.label in outputs:
        answer["predictions"] = _in_place(outputs[roles.label], response)
        if roles.labels:
            answer["labels"] = list(roles.labels)
        if roles.probabilities in outputs:
            answer["probabilities"] = _in_place(outputs[roles.probabilities], response)
        return answer
    answer["predictions"] = by_row(response)
    return answer


def by_row(response: InferenceResponse) -> Any:
    """Rows of a single output, or objects of the row of each output when there are several. A model without a batch
    axis answers its one row as others do: in a list."""
    columns = {tensor.name: _in_place(tensor.data, response) for tensor in response.outputs}
    if response.rows is None:
        return [columns if len(columns) > 1 else next(iter(columns.values()))]
    if len(columns) == 1:
        return next(iter(columns.values()))
    rows = zip(*map(_elements, columns.values()), strict=True)
    return [None if row[0] is None else dict(zip(columns, row, strict=True)) for row in rows]


def row_error(position: int, error: Exception) -> dict[str, Any]:
    """One refused row, as the caller sees it."""
    if not isinstance(error, KeelwayError):
        return {"row": position, "code": "INTERNAL", "message": "this row could not be answered"}
    entry = {"row": position, "code": str(error.code), "message": error.message}
    return entry | {"field": error.field} if error.field else entry


def decode_json(body: bytes, decode: Any) -> Any:
    """``decode(body)``, its failures turned into ``MalformedRequest`` without a word of the body."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise MalformedRequest(f"the body does not fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedRequest("the body is not valid JSON") from None


def refuse_binary(header_length: int | None) -> None:
    """Only the Open Inference Protocol has binary tensors; a header length elsewhere is a mistake worth saying."""
    if header_length is not None:
        raise MalformedRequest("binary tensors are understood on the /v2 routes only")


def _in_place(array: Array, response: InferenceResponse) -> Any:
    """The rows of an output at their places in the caller's order, ``None`` where a row was refused."""
    positions: Sequence[int] | None = response.positions
    if positions is None or response.rows is None:
        return json_rows(array)
    answer: list[Any] = [None] * (len(positions) + len(response.row_errors))
    for position, row in zip(positions, _elements(array), strict=True):
        answer[position] = row
    return answer


def _elements(rows: Any) -> Sequence[Any]:
    """One JSON value per row. Scalars of floats stay NumPy's, so that a float32 is written in its own few digits."""
    if not isinstance(rows, np.ndarray):
        return rows  # type: ignore[no-any-return]
    if rows.dtype.kind == "O":
        return json_rows(rows)  # type: ignore[no-any-return]
    if rows.ndim == 1 and rows.dtype.kind != "f":
        return rows.tolist()  # type: ignore[no-any-return]
    return [np.ascontiguousarray(row) if rows.ndim > 1 else row for row in rows]
