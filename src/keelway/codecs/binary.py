"""The binary tensor extension of the Open Inference Protocol: tensors as raw little-endian bytes behind a JSON header.

Elements of BYTES are each preceded by their length, four bytes little-endian. Used by the JSON codec, which owns the
header; the arrays are views into the body, so nothing is copied.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keelway.codecs.shapes import reshape
from keelway.contract.values import base64_bytes, numpy_dtype
from keelway.errors import InvalidInput, MalformedRequest
from keelway.types import Array, RequestedOutput, TensorRequest, WireTensor

#: What an input's parameter ``content_type`` says of elements that are base64 text.
BASE64 = "base64"

_LENGTH = struct.Struct("<I")
#: Byte orders of a dtype that are already those of the wire; "=" is the machine's.
_LITTLE = "<|=" if sys.byteorder == "little" else "<|"


def decode_tensor(raw: memoryview, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """The array in ``raw``. ``InvalidInput`` naming ``name`` if the size does not fit ``datatype`` and ``shape``."""
    count = math.prod(shape)
    if datatype == "BYTES":
        elements = _decode_bytes(raw, count, name)
        array = np.empty(count, dtype=object)
        array[:] = elements
        return reshape(array, shape, name)
    dtype = numpy_dtype(datatype, name)
    if len(raw) != count * dtype.itemsize:
        raise InvalidInput(
            f"input {name!r}: {len(raw)} bytes do not make a {datatype} tensor of shape {list(shape)}", field=name
        )
    if datatype == "BOOL" and not set(bytes(raw)) <= {0, 1}:
        raise InvalidInput(f"input {name!r}: a BOOL is one byte, 0 or 1", field=name)
    return reshape(np.frombuffer(raw, dtype=dtype), shape, name)


def from_base64(array: Array, datatype: str, name: str) -> Array:
    """``array`` with the bytes that its elements are the base64 of. ``InvalidInput`` naming ``name`` and the position
    of what is not; ``None`` stays."""
    if datatype != "BYTES":
        raise InvalidInput(f"input {name!r}: the content_type {BASE64} is for BYTES, not {datatype}", field=name)
    decoded = np.empty(array.size, dtype=object)
    for position, element in enumerate(array.ravel().tolist()):
        decoded[position] = data = None if element is None else base64_bytes(element)
        if data is None and element is not None:
            raise InvalidInput(f"input {name!r}: element {position} is not valid base64", field=name)
    return decoded.reshape(array.shape)


def encode_tensor(array: Array) -> bytes:
    """The bytes of ``array`` in row-major, little-endian order."""
    if array.dtype.kind in "OUS":
        return b"".join(_LENGTH.pack(len(element)) + element for element in map(_as_bytes, array.ravel().tolist()))
    if array.dtype.byteorder in _LITTLE:
        return array.tobytes()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


class _Place(NamedTuple):
    """Where the numbers of an input lie: ``length`` of ``dtype``, ``offset`` bytes behind the header."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    length: int
    offset: int


class Layout(NamedTuple):
    """What a header says of the ``size`` bytes that follow it, and of the request. Where the header is the same again,
    and as many bytes follow, nothing else is to be looked at: the same few come again and again."""

    size: int
    places: Sequence[_Place]
    outputs: Sequence[RequestedOutput]
    id: str
    binary_outputs: bool

    def read(self, body: bytes, header_length: int) -> TensorRequest:
        """The request in ``body``."""
        inputs = []
        for name, datatype, shape, dtype, length, offset in self.places:
            at = header_length + offset
            # The content of a ``bytes`` begins at a multiple of 16. To compute with numbers that lie across the
            # machine's own boundaries takes longer than to move them once.
            if at % dtype.itemsize:
                data = np.frombuffer(body[at : at + length * dtype.itemsize], dtype)
            else:
                data = np.frombuffer(body, dtype, length, at)
            inputs.append(WireTensor(name, datatype, shape, data.reshape(shape)))
        return TensorRequest(inputs, self.outputs, self.id, self.binary_outputs)


def layout_of(request: TensorRequest, size: int) -> Layout | None:
    """The layout of ``request``, which was read from a header and ``size`` bytes; ``None`` if not every input is
    numbers in those bytes, of which any are right."""
    places, at = [], 0
    for tensor in request.inputs:
        data = tensor.data
        if tensor.datatype in ("BOOL", "BYTES") or not data.size:
            return None
        places.append(_Place(tensor.name, tensor.datatype, tensor.shape, data.dtype, data.size, at))
        at += data.nbytes
    if at != size:
        return None
    return Layout(size, places, request.outputs, request.id, request.binary_outputs)


def split_body(body: bytes, header_length: int) -> tuple[bytes, memoryview]:
    """The JSON header and what follows it. ``MalformedRequest`` if the caller's header length lies."""
    if not 0 <= header_length <= len(body):
        raise MalformedRequest("Inference-Header-Content-Length is larger than the body")
    return body[:header_length], memoryview(body)[header_length:]


def _decode_bytes(raw: memoryview, count: int, name: str) -> Sequence[bytes]:
    elements: list[bytes] = []
    at, end = 0, len(raw)
    while at + 4 <= end and len(elements) < count:
        (length,) = _LENGTH.unpack_from(raw, at)
        at += 4
        if length > end - at:
            break
        elements.append(bytes(raw[at : at + length]))
        at += length
    if at != end or len(elements) != count:
        raise InvalidInput(f"input {name!r}: the bytes do not make {count} BYTES elements", field=name)
    return elements


def _as_bytes(element: Any) -> bytes:
    return element if isinstance(element, bytes) else str(element).encode()
