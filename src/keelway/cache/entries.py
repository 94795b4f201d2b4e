"""What is kept under a key: the outputs of a run, or the error that every such run ends with; and its form in a store.

The form is MessagePack with fixed types behind a checksum that covers the key. Nothing is unpickled, and bytes that are
anything else are no entry: a store may hold what it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from sys import getsizeof
from typing import Any, Final

import msgspec
import numpy as np

from keelway.errors import ErrorCode, InvalidInput, KeelwayError, PayloadTooLarge, RowsRefused, Unsupported
from keelway.types import NUMPY_DTYPES, Array, datatype_of

#: Errors that the same request to the same version meets again, however often it is asked. What may pass (a model that
#: failed, a dependency that is away, a deadline) is no answer to anybody else.
DETERMINISTIC: Final[dict[ErrorCode, type[KeelwayError]]] = {
    ErrorCode.INVALID_ARGUMENT: InvalidInput,
    ErrorCode.OUT_OF_RANGE: PayloadTooLarge,
    ErrorCode.UNIMPLEMENTED: Unsupported,
}

#: Bytes that an entry and each array take beside their data: measured, and rounded up.
_ENTRY_BYTES: Final = 640
_ARRAY_BYTES: Final = 192
_ROW_BYTES: Final = 192
_CHECKSUM_BYTES: Final = 16
_FORM: Final = 1
#: More axes than any model has; NumPy ends at 64.
_MAX_AXES: Final = 32
_PLAIN: Final = frozenset({str, bytes, type(None)})


class Refusal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A deterministic error, without the traceback of whoever met it first."""

    code: ErrorCode
    message: str
    field: str | None
    hint: str | None
    rows: dict[int, tuple[str, str | None, str | None]] = {}

    def error(self) -> KeelwayError:
        """A new one each time. With ``rows`` (message, field and hint of each row refused) others can be answered."""
        if self.rows:
            return RowsRefused.of(
                {row: InvalidInput(text, field=field, hint=hint) for row, (text, field, hint) in self.rows.items()}
            )
        return DETERMINISTIC[self.code](self.message, field=self.field, hint=self.hint)


class Entry(msgspec.Struct, frozen=True):
    """``outputs`` in the order they were wanted, not to be written to, or else a ``refusal``. ``cost`` is the seconds
    it took to find out, ``size`` the bytes it takes in memory."""

    outputs: Sequence[Array]
    refusal: Refusal | None
    cost: float
    size: int

    def result(self) -> Sequence[Array]:
        """The outputs; raises the refusal."""
        if self.refusal is not None:
            raise self.refusal.error()
        return self.outputs


def answered(outputs: Any, wanted: int, cost: float) -> Entry | None:
    """An entry with copies of ``outputs``, which a run may go on using. ``None`` if it is not ``wanted`` arrays of
    numbers or texts."""
    if not isinstance(outputs, Sequence) or len(outputs) != wanted:
        return None
    kept: list[Array] = []
    size = _ENTRY_BYTES
    for array in outputs:
        # A subclass, such as a masked array, means more than its elements.
        plain = type(array) is np.ndarray or isinstance(array, np.generic)
        copy = _copied(np.asarray(array)) if plain else None
        if copy is None:
            return None
        copy.flags.writeable = False
        kept.append(copy)
        size += _ARRAY_BYTES + copy.nbytes
        if copy.dtype.kind == "O":
            size += sum(map(getsizeof, copy.reshape(-1).tolist()))
    return Entry(kept, None, cost, size)


def refused(error: Exception, cost: float) -> Entry | None:
    """An entry that refuses as ``error`` does; ``None`` if another run might not."""
    if not isinstance(error, KeelwayError) or error.code not in DETERMINISTIC or error.retry_after is not None:
        return None
    rows = {row: (one.message, one.field, one.hint) for row, one in getattr(error, "errors", {}).items()}
    texts = (error.message, error.field, error.hint, *chain.from_iterable(rows.values()))
    size = _ENTRY_BYTES + sum(map(getsizeof, texts)) + _ROW_BYTES * len(rows)
    return Entry((), Refusal(error.code, error.message, error.field, error.hint, rows), cost, size)


class _Tensor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``data`` are the little-endian elements, of texts the MessagePack of a list of them."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes


class _Stored(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    form: int
    cost: float
    outputs: list[_Tensor]
    refusal: Refusal | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_decode_texts = msgspec.msgpack.Decoder(list[Any]).decode


def to_bytes(entry: Entry, key: bytes) -> bytes:
    """``entry`` as a store keeps it under ``key``."""
    tensors = [_Tensor(datatype_of(array.dtype), array.shape, _data(array)) for array in entry.outputs]
    body = _encode(_Stored(_FORM, entry.cost, tensors, entry.refusal))
    return _checksum(key, body) + body


def from_bytes(data: bytes, key: bytes, wanted: int) -> Entry | None:
    """The entry in ``data``; ``None`` if ``data`` are not what ``to_bytes`` made for ``key`` and ``wanted`` outputs."""
    checksum, body = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if checksum != _checksum(key, body):
        return None
    try:
        stored = _decode(body)
        if stored.form != _FORM or not 0 <= stored.cost < float("inf"):
            return None
        if stored.refusal is not None:
            error = stored.refusal.error() if stored.refusal.code in DETERMINISTIC and not stored.outputs else None
            return refused(error, stored.cost) if error is not None else None
        return answered([_array(tensor) for tensor in stored.outputs], wanted, stored.cost)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, KeyError):
        return None


def _copied(array: Array) -> Array | None:
    """A contiguous copy in the machine's own order of bytes; ``None`` of what is neither numbers nor texts."""
    if array.dtype.kind in "US":
        return array.copy()
    if array.dtype.kind != "O":
        try:
            return np.array(array, NUMPY_DTYPES[datatype_of(array.dtype)], order="C", copy=True)
        except KeyError:
            return None
    elements = array.reshape(-1).tolist()
    if not _PLAIN.issuperset(map(type, elements)):
        if not all(isinstance(element, str | bytes | None) for element in elements):
            return None
        # NumPy's own texts, which no other program knows.
        elements = [str(it) if isinstance(it, str) else it if it is None else bytes(it) for it in elements]
    return _objects(elements, array.shape)


def _objects(elements: Sequence[Any], shape: tuple[int, ...]) -> Array:
    flat = np.empty(len(elements), object)
    flat[:] = elements
    return flat.reshape(shape)


def _data(array: Array) -> bytes:
    return _encode(array.reshape(-1).tolist()) if array.dtype.kind in "OUS" else array.tobytes()


def _array(tensor: _Tensor) -> Array:
    """``ValueError``, ``KeyError`` or ``DecodeError`` if the parts do not fit each other."""
    dtype, shape = NUMPY_DTYPES[tensor.datatype], tensor.shape
    if len(shape) > _MAX_AXES or any(size < 0 for size in shape):
        raise ValueError
    return (
        _objects(_decode_texts(tensor.data), shape)
        if dtype.kind == "O"
        else np.frombuffer(tensor.data, dtype).reshape(shape)
    )


def _checksum(key: bytes, body: bytes) -> bytes:
    return blake2b(body, digest_size=_CHECKSUM_BYTES, key=key).digest()
