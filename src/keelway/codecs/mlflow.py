"""MLflow's scoring format (``POST /invocations``), also SageMaker's, so that their clients work unchanged.

Takes ``dataframe_split``, ``dataframe_records``, ``instances`` or ``inputs``; answers ``{"predictions": …}``.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from keelway.codecs.json import JSON
from keelway.codecs.limits import DEFAULT_MAX_NESTING, check_nesting
from keelway.codecs.rows import decode_json, refuse_binary
from keelway.codecs.tensorflow import answer
from keelway.errors import InvalidInput, MalformedRequest
from keelway.ports import Encoded
from keelway.types import ColumnRequest, InferenceRequest, InferenceResponse, RowRequest


class _Split(msgspec.Struct, frozen=True):
    data: list[list[Any]]
    # pandas numbers the columns of a frame without names.
    columns: list[str | int] | None = None


class _Body(msgspec.Struct, frozen=True):
    dataframe_split: _Split | None = None
    dataframe_records: list[dict[str, Any]] | None = None
    instances: list[Any] | None = None
    inputs: list[Any] | dict[str, Any] | None = None
    params: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Body).decode


class MlflowCodec:
    """``max_nesting`` caps the depth of the body."""

    def __init__(self, max_nesting: int = DEFAULT_MAX_NESTING) -> None:
        self._max_nesting = max_nesting

    def parse(self, body: bytes, header_length: int | None) -> InferenceRequest:
        refuse_binary(header_length)
        check_nesting(body, self._max_nesting)
        request = decode_json(body, _decode)
        forms = (request.dataframe_split, request.dataframe_records, request.instances, request.inputs)
        if sum(form is not None for form in forms) != 1:
            raise MalformedRequest(
                "the body must have exactly one of dataframe_split, dataframe_records, instances and inputs"
            )
        if request.dataframe_split is not None:
            return RowRequest(_rows(request.dataframe_split), atomic=True)
        if request.inputs is not None:
            if isinstance(request.inputs, list) and all(isinstance(row, list | dict) for row in request.inputs):
                return RowRequest(request.inputs, atomic=True)
            return ColumnRequest(request.inputs)
        return RowRequest(request.dataframe_records or request.instances or [], atomic=True)

    def encode(self, response: InferenceResponse, request: InferenceRequest) -> Encoded:
        return Encoded(orjson.dumps({"predictions": answer(response)}, option=orjson.OPT_SERIALIZE_NUMPY), JSON)


def _rows(split: _Split) -> list[Any]:
    if split.columns is None:
        return list(split.data)
    columns = [str(column) for column in split.columns]
    if len(set(columns)) != len(columns):
        raise InvalidInput("dataframe_split names a column twice", field="columns")
    if any(len(row) != len(columns) for row in split.data):
        raise InvalidInput("a row of dataframe_split.data differs in length from its columns", field="data")
    return [dict(zip(columns, row, strict=True)) for row in split.data]
