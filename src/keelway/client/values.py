"""What callers send, checked and in plain form, before a protocol writes it down: names, rows and tensors.

Alike for both protocols, so that neither turns a value into something else in silence. It knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keelway.errors import InvalidInput
from keelway.types import Array, Tensor, datatype_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_LEAST, _LARGEST = -(2**63), 2**64 - 1
#: Lists in lists; more than any feature has.
_DEEPEST = 32


def check_name(name: Any, field: str) -> str:
    """The name of a model or version, if it can be one: it becomes part of a path."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(f"{field} is not a name that a {field} can have", field=field)
    return name


def plain_rows(rows: Any) -> list[dict[str, Any]]:
    """The ``rows`` (mappings, or one for one row) with nothing in them but ``None``, booleans, whole and finite
    numbers, text, bytes that are no text, and lists of those. NumPy's scalars and arrays become Python's, NaN becomes
    ``None``.

    ``InvalidInput`` naming the feature for anything else.
    """
    if isinstance(rows, Mapping):
        rows = [rows]
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise InvalidInput(
            "rows must be a list of mappings from feature name to value", hint='of a pandas frame: to_dict("records")'
        )
    return [{_feature(name): _plain(value, name, _DEEPEST) for name, value in row.items()} for row in rows]


def tensors_of(inputs: Any) -> list[Tensor]:
    """The arrays as tensors, with texts as ``bytes``. ``InvalidInput`` naming the input that cannot be sent."""
    if not isinstance(inputs, Mapping) or not inputs:
        raise InvalidInput("inputs must be a mapping from the name of an input to an array, with one at least")
    return [_tensor(name, array) for name, array in inputs.items()]


def check_texts(texts: Any, field: str) -> list[str]:
    """``texts`` as a list, if it is a sequence of those and not one. ``InvalidInput`` naming ``field``."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{field} is a list of texts", field=field)
    for text in texts:
        _utf8(text, field)
    return list(texts)


def _tensor(name: Any, array: Any) -> Tensor:
    if not isinstance(name, str) or not isinstance(array, np.ndarray):
        raise InvalidInput("an input is a name and a NumPy array")
    _utf8(name, "an input")
    try:
        datatype = datatype_of(array.dtype)
    except KeyError:
        raise InvalidInput(f"input {name!r}: the protocol has no datatype for this dtype", field=name) from None
    return Tensor(name, datatype, _texts(array, name) if datatype == "BYTES" else array)


def _texts(array: Array, name: str) -> Array:
    encoded = np.empty(array.size, dtype=object)
    encoded[:] = [_bytes(element, name) for element in array.ravel().tolist()]
    return encoded.reshape(array.shape)


def _bytes(element: Any, name: str) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return _utf8(element, name)
    raise InvalidInput(f"input {name!r} holds something that is neither text nor bytes", field=name)


def _feature(name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidInput("the name of a feature is text")
    _utf8(name, "a feature")
    return name


def _utf8(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{name!r} holds text with half a character", field=name) from None


def _plain(value: Any, name: str, depth: int) -> Any:
    kind = type(value)
    if kind is float:
        return _number(value, name)
    if value is None or kind is bool:
        return value
    if kind is str:
        if not value.isascii():
            _utf8(value, name)
        return value
    if kind is int:
        if not _LEAST <= value <= _LARGEST:
            raise InvalidInput(f"{name!r} holds a whole number that is too large", field=name)
        return value
    if kind is bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if depth and kind in (list, tuple):
        return [_plain(item, name, depth - 1) for item in value]
    if depth and isinstance(value, np.ndarray | np.generic):
        # Of a dtype that Python has no word for, tolist gives the scalar itself: hence a level each.
        return _plain(value.tolist(), name, depth - 1)
    raise InvalidInput(f"{name!r} holds a kind of value that cannot be sent", field=name)


def _number(value: float, name: str) -> float | None:
    if value - value == 0.0:
        return value
    if value != value:
        return None
    raise InvalidInput(f"{name!r} is infinite, which no model takes", field=name)
