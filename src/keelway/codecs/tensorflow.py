"""TensorFlow Serving's and KServe V1's predict format, so that their clients work unchanged.

``instances`` (rows) is answered by ``predictions``, ``inputs`` (columns) by ``outputs``. A classifier or regressor
answers its predicted values, as KServe's scikit-learn server does; other models answer their tensors, as TensorFlow
Serving does.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from keelway.codecs.json import JSON, json_rows
from keelway.codecs.limits import DEFAULT_MAX_NESTING, check_nesting
from keelway.codecs.rows import by_row, decode_json, refuse_binary
from keelway.contract.values import base64_bytes
from keelway.errors import MalformedRequest, Unsupported
from keelway.ports import Encoded
from keelway.types import ColumnRequest, InferenceRequest, InferenceResponse, RowRequest


class _Body(msgspec.Struct, frozen=True):
    instances: list[Any] | None = None
    inputs: list[Any] | dict[str, Any] | None = None
    signature_name: str = "serving_default"


_decode = msgspec.json.Decoder(_Body).decode


class TensorFlowCodec:
    """``max_nesting`` caps the depth of the body."""

    def __init__(self, max_nesting: int = DEFAULT_MAX_NESTING) -> None:
        self._max_nesting = max_nesting

    def parse(self, body: bytes, header_length: int | None) -> InferenceRequest:
        refuse_binary(header_length)
        check_nesting(body, self._max_nesting)
        request = decode_json(body, _decode)
        if request.signature_name != "serving_default":
            raise Unsupported("a model has one signature here, serving_default")
        if (request.instances is None) == (request.inputs is None):
            raise MalformedRequest('the body must be an object with "instances" or "inputs"')
        has_bytes = b'"b64"' in body
        if request.instances is not None:
            rows = request.instances
            return RowRequest([_decoded(row) for row in rows] if has_bytes else rows, atomic=True)
        return ColumnRequest(_decoded(request.inputs) if has_bytes else request.inputs)

    def encode(self, response: InferenceResponse, request: InferenceRequest) -> Encoded:
        key = "outputs" if isinstance(request, ColumnRequest) else "predictions"
        return Encoded(
            orjson.dumps({key: answer(response, columnar=key == "outputs")}, option=orjson.OPT_SERIALIZE_NUMPY), JSON
        )


def answer(response: InferenceResponse, *, columnar: bool = False) -> Any:
    """The predicted values where the model has such an output; else every output, by row or by column."""
    outputs = {tensor.name: tensor.data for tensor in response.outputs}
    if response.roles.label in outputs:
        return json_rows(outputs[response.roles.label])
    if columnar and len(outputs) > 1:
        return {name: json_rows(data) for name, data in outputs.items()}
    return by_row(response)


def _decoded(value: Any) -> Any:
    """``{"b64": text}`` anywhere in ``value`` becomes the bytes it stands for."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"b64"}:
        data = base64_bytes(value["b64"])
        if data is None:
            raise MalformedRequest("a b64 value is not valid base64")
        return data
    return {name: _decoded(item) for name, item in value.items()}
