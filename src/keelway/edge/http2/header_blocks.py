"""Header blocks (HPACK, RFC 7541): read by the library ``hpack``, written without the dynamic table.

A block that leaves the dynamic table as it is means the same as long as nothing else changes it. Clients send the same
few blocks again and again, so what came of a block is kept under its very bytes until the table changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError
from hpack.exceptions import OversizedHeaderListError
from hpack.table import HeaderTable

from keelway.edge.http2.frames import ConnectionFailure, Http2Error

Headers = Sequence[tuple[bytes, bytes]]
Kept = TypeVar("Kept")

#: Blocks of one connection that are kept, and the longest of them in bytes.
_KEPT, _KEPT_BYTES = 64, 1024

#: A change of the dynamic table's size to nothing.
NO_TABLE = b"\x20"
#: Names of RFC 7541's static table, with their places.
_STATIC = {b":status": 8, b"content-type": 31}


class _CountingTable(HeaderTable):
    """The dynamic table, which counts how often it has changed."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return super().maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]


class BlockReader(Generic[Kept]):
    """Reads the header blocks of one connection, in their order. ``max_size`` caps what a block may unfold to, in bytes
    as RFC 9113 counts them (6.5.2)."""

    def __init__(self, max_size: int) -> None:
        self._decoder = Decoder(max_size)
        self._table = self._decoder.header_table = _CountingTable()
        self._kept: dict[bytes, Kept] = {}
        #: What was kept for a block, ``None`` if nothing was.
        self.kept = self._kept.get

    def read(self, block: bytes) -> Headers:
        """The headers in ``block``. ``ConnectionFailure`` if it is none, or unfolds beyond the cap: what comes behind
        it on the connection cannot be understood then."""
        before = self._table.changes
        try:
            headers = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            raise ConnectionFailure(Http2Error.ENHANCE_YOUR_CALM, "a header block unfolds beyond the limit") from None
        except (HPACKError, UnicodeDecodeError, IndexError, ValueError):
            raise ConnectionFailure(Http2Error.COMPRESSION_ERROR, "a header block cannot be read") from None
        if self._table.changes != before:
            self._kept.clear()
            self._stable = False
        else:
            self._stable = True
        return headers  # type: ignore[return-value]

    def keep(self, block: bytes, value: Kept) -> None:
        """Keep ``value`` for ``block``, which was read last, if the block means the same when it comes again."""
        if self._stable and len(block) <= _KEPT_BYTES:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[block] = value


def written(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """``headers`` as a block that any peer reads, whatever it has read before: literals, none put into its table."""
    parts = []
    for name, value in headers:
        if name == b":status" and value == b"200":
            parts.append(b"\x88")
            continue
        place = _STATIC.get(name)
        parts.append(b"\x00" + _text(name) if place is None else _integer(place, 4))
        parts.append(_text(value))
    return b"".join(parts)


def _text(text: bytes) -> bytes:
    return _integer(len(text), 7) + text


def _integer(number: int, bits: int) -> bytes:
    """RFC 7541, 5.1, with all bits before the prefix zero."""
    largest = (1 << bits) - 1
    if number < largest:
        return bytes((number,))
    encoded = bytearray((largest,))
    number -= largest
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
