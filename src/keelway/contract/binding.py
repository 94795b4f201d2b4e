"""Binding: a request in tensors, rows or columns becomes the input tensors of one version, by its signature.

Compiled once per version, since it runs once per request. It checks names, datatypes and shapes, and never reshapes a
wrong shape into a right one. What may be missing may be left out: by name anywhere, in lists and packed tensors at the
end; and a datatype is as good as one that holds all its values. So callers of an older version are answered whose
promises ``compatibility.py`` finds kept. Whether values are allowed is the validator's business
(``keelway.guard.validation``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from operator import itemgetter
from typing import Any

import numpy as np

from keelway.contract.compatibility import is_lossless
from keelway.contract.signature import Feature, ModelSignature
from keelway.contract.values import base64_bytes, check_scalar, flatten, to_array
from keelway.errors import InvalidInput, PayloadTooLarge, bare
from keelway.types import (
    NUMPY_DTYPES,
    Array,
    BoundRequest,
    ColumnRequest,
    InferenceRequest,
    RowRequest,
    TensorRequest,
    TensorSpec,
    WireTensor,
)

_NUMERIC: frozenset[type] = frozenset({float, int})
_SEQUENCES: frozenset[type] = frozenset({tuple, list})
#: The names of an object that stands for bytes in JSON, as TensorFlow Serving has it.
_B64 = frozenset({"b64"})
# Bad rows of one request that are told the nearest name. Looking for it takes a millisecond, and rows come by the
# hundred thousand.
_SUGGESTIONS = 5


class Binding:
    """Fits requests to ``signature``; ``max_rows`` caps the rows of one request."""

    def __init__(self, signature: ModelSignature, max_rows: int) -> None:
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self._only = signature.inputs[0] if len(signature.inputs) == 1 else None
        self._features = {feature.name: feature for feature in signature.features}
        self._names = tuple(self._features)
        # What a tensor of a request may be called, each once and in order.
        self._places = dict.fromkeys((*self._inputs, *(name for spec in signature.inputs for name in spec.columns)))
        # Where the values of each input stand in a row.
        order = {name: position for position, name in enumerate(self._names)}
        self._positions = {
            spec.name: [order[name] for name in spec.columns or (spec.name,)] for spec in signature.inputs
        }
        self._batched = signature.batched
        self._max_rows = max_rows
        self._least_values = _required(feature.nullable for feature in signature.features)
        self._least_columns = {
            spec.name: _required(self._features[name].nullable for name in spec.columns) for spec in signature.inputs
        }
        # A row may be bare bytes, {"b64": ...}, where that can mean nothing else.
        first = signature.features[0] if len(signature.features) == 1 else None
        self._takes_bytes = first is not None and first.datatype == "BYTES" and first.name != "b64"
        # Every input is a matrix of numbers: a row is then one tuple, and rows become an array in one call.
        numeric = (
            self._only is not None
            and self._only.columns == self._names
            and len(self._names) > 1
            and self._only.datatype in {"FP32", "FP64"}
        )
        self._values = itemgetter(*self._names) if numeric else None

    def bind(self, request: InferenceRequest) -> BoundRequest:
        """Raises ``InvalidInput`` naming the input or feature, ``PayloadTooLarge`` beyond ``max_rows``.

        Bad rows of a ``RowRequest`` that is not atomic are set apart in ``row_errors``; if none is left, the first
        error is raised.
        """
        if isinstance(request, TensorRequest):
            return self._bind_tensors(request.inputs)
        if isinstance(request, RowRequest):
            return self._bind_rows(request)
        return self._bind_columns(request)

    # Tensors

    def _bind_tensors(self, tensors: Sequence[WireTensor]) -> BoundRequest:
        only = self._only
        if only is not None and len(tensors) == 1 and tensors[0].name == only.name:
            array = self._checked(tensors[0], only.datatype, only.shape)
            return BoundRequest({only.name: array}, self._row_count(array, only.name) if self._batched else None)
        if len(tensors) == 1 and isinstance(tensors[0].data, bytes):
            return self._bind_raw(tensors[0].data)
        by_name = {tensor.name: tensor for tensor in tensors}
        if len(by_name) != len(tensors):
            raise InvalidInput("two inputs have the same name")
        for name in by_name:
            if name not in self._places:
                raise self._unknown(name, "input")
        inputs: dict[str, Array] = {}
        for spec in self._inputs.values():
            if spec.name in by_name:
                inputs[spec.name] = self._checked(by_name.pop(spec.name), spec.datatype, spec.shape)
            elif by_name.keys().isdisjoint(spec.columns):
                raise InvalidInput(f"input {spec.name!r} is missing", field=spec.name)
            else:
                inputs[spec.name] = self._packed(spec, by_name)
        for name in by_name:
            raise InvalidInput(f"input {name!r} is sent twice: alone and within a packed input", field=name)
        return BoundRequest(inputs, self._same_rows(inputs))

    def _packed(self, spec: TensorSpec, by_name: dict[str, WireTensor]) -> Array:
        """Columns sent as tensors of their own, [-1] or [-1, 1] each, packed into one [-1, n]."""
        parts: dict[str, Array] = {}
        for column in spec.columns:
            tensor = by_name.pop(column, None)
            if tensor is not None:
                shape = (*spec.shape[:1], 1) if len(tensor.shape) == 2 else spec.shape[:1]
                parts[column] = self._checked(tensor, spec.datatype, shape).reshape(-1)
            elif not self._features[column].nullable:
                raise InvalidInput(f"input {column!r} is missing", field=column)
        lengths = {len(part) for part in parts.values()}
        if len(lengths) > 1:
            raise InvalidInput("the columns differ in their number of rows")
        if len(parts) < len(spec.columns):
            missing = _missing(lengths.pop(), spec.datatype)
            parts = {column: parts.get(column, missing) for column in spec.columns}
        return np.stack(list(parts.values()), axis=1)

    def _checked(self, tensor: WireTensor, datatype: str, shape: tuple[int, ...]) -> Array:
        name = tensor.name
        data: Array = tensor.data
        if tensor.datatype != datatype:
            if not is_lossless(tensor.datatype, datatype):
                raise InvalidInput(f"input {name!r} is {datatype}, not {tensor.datatype}", field=name)
            data = data.astype(NUMPY_DTYPES[datatype])
        given = tensor.shape
        if len(given) != len(shape) or any(want not in (-1, have) for want, have in zip(shape, given, strict=True)):
            filled = self._filled(name, data, shape)
            if filled is None:
                raise InvalidInput(f"input {name!r} has shape {list(shape)}, not {list(given)}", field=name)
            return filled
        return data

    def _filled(self, name: str, data: Array, shape: tuple[int, ...]) -> Array | None:
        """A packed tensor that ends before columns which may be missing, with missing values there; else ``None``."""
        spec = self._inputs.get(name)
        if spec is None or not spec.columns or data.ndim != 2 or shape[0] not in (-1, len(data)):
            return None
        lacking = len(spec.columns) - data.shape[1]
        if not 0 < lacking <= len(spec.columns) - self._least_columns[name]:
            return None
        return np.concatenate([data, *[_missing(len(data), spec.datatype)[:, None]] * lacking], axis=1)

    def _bind_raw(self, body: bytes) -> BoundRequest:
        """A body that is nothing but the bytes of the only input; its one open dimension follows from the size."""
        spec = self._only
        if spec is None:
            raise InvalidInput("a raw binary body needs a model with one input")
        if spec.datatype == "BYTES":
            data = np.array([body], dtype=object)
        else:
            dtype = NUMPY_DTYPES[spec.datatype]
            if len(body) % dtype.itemsize:
                raise InvalidInput(f"the body is no whole number of {spec.datatype} values", field=spec.name)
            data = np.frombuffer(body, dtype=dtype)
            if spec.datatype == "BOOL" and not set(body) <= {0, 1}:
                raise InvalidInput("a BOOL is one byte, 0 or 1", field=spec.name)
        fixed = math.prod(size for size in spec.shape if size != -1)
        fits = len(data) == fixed if -1 not in spec.shape else len(data) % fixed == 0 and spec.shape.count(-1) == 1
        if not len(data) or not fits:
            raise InvalidInput(f"the body does not make a tensor of shape {list(spec.shape)}", field=spec.name)
        array = data.reshape(spec.shape)
        return BoundRequest({spec.name: array}, self._row_count(array, spec.name) if self._batched else None)

    # Rows

    def _bind_rows(self, request: RowRequest) -> BoundRequest:
        rows = request.rows
        if not rows:
            raise InvalidInput("there are no rows")
        if len(rows) > self._max_rows:
            raise PayloadTooLarge(f"more than {self._max_rows} rows in one request")
        if not self._batched and len(rows) > 1:
            raise InvalidInput("this model has no batch axis: it takes one row a request")
        array = self._numeric_rows(rows)
        if array is not None and self._only is not None:
            return BoundRequest({self._only.name: array}, len(rows) if self._batched else None)
        return self._rows_one_by_one(rows, request.atomic)

    def _numeric_rows(self, rows: Sequence[Any]) -> Array | None:
        """All rows at once when every value is plainly a number; ``None`` sends them the careful way."""
        width, take, spec = len(self._names), self._values, self._only
        if take is None or spec is None:
            return None
        tuples: list[Sequence[Any]] = []
        try:
            for row in rows:
                values = take(row) if type(row) is dict else row
                if len(row) != width or type(values) not in _SEQUENCES or not _NUMERIC.issuperset(map(type, values)):
                    return None
                tuples.append(values)
            with np.errstate(over="raise"):
                return np.array(tuples, dtype=NUMPY_DTYPES[spec.datatype])
        except (KeyError, TypeError, FloatingPointError, OverflowError):
            return None

    def _rows_one_by_one(self, rows: Sequence[Any], atomic: bool) -> BoundRequest:
        errors: dict[int, Exception] = {}
        kept: list[Sequence[Any]] = []
        positions: list[int] = []
        for position, row in enumerate(rows):
            try:
                kept.append(self._row(row, suggest=len(errors) < _SUGGESTIONS))
                positions.append(position)
            except InvalidInput as error:
                if atomic:
                    raise _at_row(error, position) from None
                errors[position] = bare(error)
        if not kept:
            raise next(iter(errors.values()))
        inputs = self._assemble(kept)
        return BoundRequest(inputs, len(kept) if self._batched else None, errors, positions if errors else None)

    def _row(self, row: Any, *, suggest: bool) -> Sequence[Any]:
        """The values of one row in feature order, flat, each checked."""
        if isinstance(row, dict) and not (self._takes_bytes and row.keys() == _B64):
            for name in row:
                if name not in self._features:
                    raise self._unknown(name, "feature", suggest=suggest)
            values = [row.get(name) for name in self._names]
        elif len(self._names) == 1 and (not isinstance(row, list) or self._features[self._names[0]].shape):
            values = [row]
        elif not isinstance(row, list):
            raise InvalidInput("a row must be an object of named values or a list in the order of the features")
        elif not self._least_values <= len(row) <= len(self._names):
            raise InvalidInput(f"a row has {len(self._names)} values, not {len(row)}")
        else:
            values = row + [None] * (len(self._names) - len(row))
        return [_value(feature, value) for feature, value in zip(self._features.values(), values, strict=True)]

    def _assemble(self, rows: Sequence[Sequence[Any]]) -> dict[str, Array]:
        """One array per input, made in one call each, of rows whose values have all been checked."""
        inputs: dict[str, Array] = {}
        for spec in self._inputs.values():
            places = self._positions[spec.name]
            values = [row[place] for row in rows for place in places]
            if spec.columns:
                inputs[spec.name] = to_array(values, spec.datatype, spec.name).reshape(len(rows), -1)
            elif self._features[spec.name].shape:
                array = _stacked(values, spec.name)
                inputs[spec.name] = array if self._batched else array[0]
            else:
                inputs[spec.name] = to_array(values, spec.datatype, spec.name).reshape(spec.shape)
        return inputs

    # Columns

    def _bind_columns(self, request: ColumnRequest) -> BoundRequest:
        columns = request.columns
        if not isinstance(columns, Mapping):
            if len(self._inputs) == 1 and self._only is not None:
                return self._bind_tensors([_wire(self._only.name, self._only.datatype, columns)])
            raise InvalidInput(f"this model has several inputs; name them: {', '.join(self._inputs)}")
        tensors = []
        for name, values in columns.items():
            spec = self._inputs.get(name)
            feature = self._features.get(name)
            if spec is None and feature is None:
                raise self._unknown(str(name), "input")
            datatype = spec.datatype if spec is not None else feature.datatype  # type: ignore[union-attr]
            tensors.append(_wire(name, datatype, values))
        return self._bind_tensors(tensors)

    # Shared

    def _row_count(self, array: Array, name: str) -> int:
        rows = len(array)
        if rows == 0:
            raise InvalidInput(f"input {name!r} has no rows", field=name)
        if rows > self._max_rows:
            raise PayloadTooLarge(f"more than {self._max_rows} rows in one request", field=name)
        return rows

    def _same_rows(self, inputs: Mapping[str, Array]) -> int | None:
        if not self._batched:
            return None
        counts = {self._row_count(array, name) for name, array in inputs.items()}
        if len(counts) > 1:
            raise InvalidInput("the inputs differ in their number of rows")
        return counts.pop()

    def _unknown(self, name: str, kind: str, *, suggest: bool = True) -> InvalidInput:
        """An unknown name is the caller's own text: it is not repeated, the nearest known one is offered."""
        known = list(self._names if kind == "feature" else self._places)
        near = get_close_matches(name[:64], known, n=1) if suggest else []
        expected = f"did you mean {near[0]!r}?" if near else f"this model takes {_listed(known)}"
        return InvalidInput(f"this model has no such {kind}; {expected}")


def _required(nullable: Iterable[bool]) -> int:
    """How many values a list has at least, so that what is left out at its end may be missing."""
    return max((place + 1 for place, missing in enumerate(nullable) if not missing), default=1)


def _missing(rows: int, datatype: str) -> Array:
    return np.full(rows, None if datatype == "BYTES" else np.nan, NUMPY_DTYPES[datatype])


def _value(feature: Feature, value: Any) -> Any:
    """One feature's value of one row, checked; an array for a feature that is itself a tensor."""
    if not feature.shape:
        if type(value) is dict and feature.datatype == "BYTES":
            return _bytes(value, feature.name)
        check_scalar(value, feature.datatype, feature.nullable, feature.name)
        return value
    if not isinstance(value, list):
        raise InvalidInput(f"{feature.name!r} must be a list", field=feature.name)
    scalars, shape = flatten(value, feature.name)
    if feature.datatype == "BYTES":
        scalars = [_bytes(scalar, feature.name) if type(scalar) is dict else scalar for scalar in scalars]
    if len(shape) != len(feature.shape) or any(
        want not in (-1, have) for want, have in zip(feature.shape, shape, strict=True)
    ):
        raise InvalidInput(
            f"{feature.name!r} has shape {list(feature.shape)} in a row, not {list(shape)}", field=feature.name
        )
    return to_array(scalars, feature.datatype, feature.name).reshape(shape)


def _bytes(value: Mapping[str, Any], name: str) -> bytes:
    """The bytes of ``{"b64": text}``: JSON has no other way to say them."""
    if value.keys() != _B64:
        raise InvalidInput(f"{name!r} must be text, or bytes as {{'b64': ...}}, not an object", field=name)
    data = base64_bytes(value["b64"])
    if data is None:
        raise InvalidInput(f"{name!r} is not valid base64", field=name)
    return data


def _stacked(values: Sequence[Array], name: str) -> Array:
    if len({value.shape for value in values}) > 1:
        raise InvalidInput(f"{name!r} differs in shape between rows of one request", field=name)
    return np.stack(values)


def _wire(name: str, datatype: str, values: Any) -> WireTensor:
    if not isinstance(values, list):
        values = [values]
    scalars, shape = flatten(values, name)
    return WireTensor(name, datatype, shape, to_array(scalars, datatype, name).reshape(shape))


def _at_row(error: InvalidInput, position: int) -> InvalidInput:
    return InvalidInput(f"row {position}: {error.message}", field=error.field)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
