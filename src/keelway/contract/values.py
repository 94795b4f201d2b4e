"""JSON values to arrays, strictly: what a caller wrote is what the model gets, or an error that names the field.

A boolean is no number, text is no number, a nested list must not be ragged, an integer must fit its datatype and a
number must not overflow to infinity. Used by the codecs (tensors) and by binding (rows); it knows no model.
"""

from __future__ import annotations

import binascii
from array import array
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from keelway.errors import InvalidInput
from keelway.types import NUMPY_DTYPES, Array

#: More axes than any model has; NumPy ends at 64.
MAX_AXES: Final = 32

_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_NUMBERS: frozenset[type] = frozenset({float, int})
_NULLABLE_NUMBERS: frozenset[type] = frozenset({float, int, type(None)})
_NULLABLE_TEXT: frozenset[type] = frozenset({str, bytes, type(None)})
_BOOLEANS: frozenset[type] = frozenset({bool})
_INTEGERS: frozenset[type] = frozenset({int})
_WORDS = {
    bool: "a boolean",
    str: "text",
    bytes: "text",
    int: "a number",
    float: "a number",
    type(None): "null",
    list: "a list",
    dict: "an object",
}
_EXPECTED = {"BOOL": "a boolean", "BYTES": "text"}


def _plain(datatype: str) -> tuple[frozenset[type], Any, Any]:
    """The types and the range of values that fit ``datatype`` at a glance; what is outside is looked at closely."""
    dtype = NUMPY_DTYPES[datatype]
    if dtype.kind == "O":
        return frozenset({str, bytes}), None, None
    if dtype.kind == "b":
        return _BOOLEANS, None, None
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        return _NUMBERS, -largest, largest
    return _INTEGERS, int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


_PLAIN = {datatype: _plain(datatype) for datatype in NUMPY_DTYPES}


def numpy_dtype(datatype: str, field: str) -> np.dtype[Any]:
    """The dtype of an Open Inference Protocol datatype. ``InvalidInput`` naming ``field`` if there is none."""
    dtype = NUMPY_DTYPES.get(datatype)
    if dtype is None:
        raise InvalidInput(f"input {field!r}: unknown datatype; one of {', '.join(NUMPY_DTYPES)}", field=field)
    return dtype


def float_array(values: Sequence[float], datatype: str, field: str) -> Array:
    """A flat float array of ``values``, all of them already known to be numbers (the codecs' typed fast path).

    A number too large for FP32 becomes an infinity, which validation refuses for every model; asking NumPy to notice
    it here would double the cost of this function. Raises ``InvalidInput`` for the other datatypes.
    """
    if datatype == "FP32":
        return np.frombuffer(array("f", values), dtype=NUMPY_DTYPES["FP32"])
    return _number_array(values, datatype, field)


def to_array(values: Sequence[Any], datatype: str, field: str) -> Array:
    """A flat array of ``values``, a flat sequence of JSON scalars, in ``datatype``.

    ``null`` becomes NaN in a float datatype and is refused in any other but BYTES, where it stays ``None``: whether a
    value may be missing is the validator's business. Raises ``InvalidInput`` naming ``field``.
    """
    kinds = set(map(type, values))
    if datatype in _FLOATS:
        _only(kinds, _NULLABLE_NUMBERS, datatype, field)
        if type(None) in kinds:
            values = [np.nan if value is None else value for value in values]
        return _number_array(values, datatype, field)
    if datatype == "BYTES":
        _only(kinds, _NULLABLE_TEXT, datatype, field)
        texts = np.empty(len(values), dtype=object)
        texts[:] = values
        return texts
    _only(kinds, _BOOLEANS if datatype == "BOOL" else _INTEGERS, datatype, field)
    try:
        return np.array(values, dtype=numpy_dtype(datatype, field))
    except OverflowError:
        raise InvalidInput(f"{field!r} holds a number out of the range of {datatype}", field=field) from None


def flatten(values: Sequence[Any], field: str) -> tuple[Sequence[Any], tuple[int, ...]]:
    """The scalars of a nested list in row-major order, and its shape. ``InvalidInput`` if it is ragged."""
    shape = [len(values)]
    while values and any(type(value) is list for value in values):
        if not all(type(value) is list for value in values):
            raise InvalidInput(f"{field!r} mixes values and lists at one level", field=field)
        lengths = set(map(len, values))
        if len(lengths) != 1:
            raise InvalidInput(f"{field!r} is ragged: lists at one level differ in length", field=field)
        shape.append(lengths.pop())
        if len(shape) > MAX_AXES:
            raise InvalidInput(f"{field!r} nests deeper than {MAX_AXES} lists", field=field)
        values = [item for value in values for item in value]
    return values, tuple(shape)


def base64_bytes(value: Any) -> bytes | None:
    """The bytes that ``value``, text or bytes, is the base64 of; ``None`` if it is not, to the letter."""
    if not isinstance(value, str | bytes):
        return None
    try:
        data = binascii.a2b_base64(value, strict_mode=True)
    except ValueError:  # binascii.Error is one, and so is text beyond ASCII
        return None
    # Even then it takes padding behind what needs none.
    return data if len(value) == (len(data) + 2) // 3 * 4 else None


def describe(value: Any) -> str:
    """The kind of a JSON value in words, for a message that must not quote it: ``a boolean``, ``text``, ``null``."""
    return _WORDS.get(type(value), "an unknown kind of value")


def check_scalar(value: Any, datatype: str, nullable: bool, field: str) -> None:
    """Check one value of a row. Raises ``InvalidInput`` naming ``field`` and both kinds, never the value."""
    kinds, low, high = _PLAIN[datatype]
    if type(value) in kinds and (low is None or low <= value <= high):
        return
    if value is None:
        if not nullable:
            raise InvalidInput(f"{field!r} is missing and may not be", field=field)
        return
    if datatype in _EXPECTED or type(value) not in _NUMBERS:
        expected = _EXPECTED.get(datatype, "a number")
        if describe(value) != expected:
            raise InvalidInput(f"{field!r} must be {expected}, not {describe(value)}", field=field)
    to_array((value,), datatype, field)


def _number_array(values: Sequence[float | int], datatype: str, field: str) -> Array:
    try:
        with np.errstate(over="raise"):
            return np.array(values, dtype=NUMPY_DTYPES[datatype])
    except (FloatingPointError, OverflowError):
        raise InvalidInput(f"{field!r} holds a number too large for {datatype}", field=field) from None


def _only(kinds: set[type], allowed: frozenset[type], datatype: str, field: str) -> None:
    wrong = kinds - allowed
    if wrong:
        word = _WORDS.get(min(wrong, key=lambda kind: kind.__name__), "an unknown kind of value")
        if wrong == {float}:
            word = "a number with a fraction or exponent"
        raise InvalidInput(f"{field!r} holds {word}, which is no {datatype}", field=field)
