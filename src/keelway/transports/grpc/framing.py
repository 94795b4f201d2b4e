"""gRPC's messages: a flag for compression, a length, the bytes. Compressed ones are unpacked up to a limit."""

from __future__ import annotations

import zlib

from keelway.transports.grpc.errors import CallRefused, Status

_PREFIX = 5
#: ``wbits`` of zlib for each ``grpc-encoding`` that is understood.
ENCODINGS: dict[bytes, int | None] = {b"identity": None, b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


class Framing:
    """How the messages of a call are packed. ``limit`` is the largest, in bytes, unpacked; ``encoding`` a key of
    ``ENCODINGS``."""

    __slots__ = ("_encoding", "limit")

    def __init__(self, limit: int, encoding: bytes) -> None:
        self.limit = limit
        self._encoding = ENCODINGS[encoding]

    def message_of(self, body: bytes) -> bytes:
        """The one message that is all of ``body``. ``CallRefused`` if there is none, or more."""
        if len(body) < _PREFIX:
            raise CallRefused(Status.INVALID_ARGUMENT, "the call has no message")
        size = int.from_bytes(body[1:_PREFIX], "big")
        if body[0] == 0 and len(body) == size + _PREFIX and size <= self.limit:
            return body[_PREFIX:]
        self.check(body)
        if len(body) < size + _PREFIX:
            raise CallRefused(Status.INVALID_ARGUMENT, "the message is shorter than it states")
        if len(body) > size + _PREFIX:
            raise CallRefused(Status.INVALID_ARGUMENT, "the call has more than one message")
        return self._unpacked(body[0], body[_PREFIX:])

    def check(self, prefix: bytes | bytearray) -> None:
        """``CallRefused`` if ``prefix``, five bytes at least, promises a message that may not be."""
        if prefix[0] > 1:
            raise CallRefused(Status.INVALID_ARGUMENT, "the message has a flag that there is not")
        if int.from_bytes(prefix[1:_PREFIX], "big") > self.limit:
            raise self._too_large()

    def take(self, buffer: bytearray) -> bytes | None:
        """The message at the beginning of ``buffer``, which it leaves; ``None`` if it is not whole. One at a time: a
        packed message takes a thousandth of the room."""
        if self.is_short(buffer):
            return None
        self.check(buffer)
        end = _PREFIX + int.from_bytes(buffer[1:_PREFIX], "big")
        flag, message = buffer[0], bytes(buffer[_PREFIX:end])
        del buffer[:end]
        return self._unpacked(flag, message)

    def is_short(self, buffer: bytearray) -> bool:
        """Whether more has to come for the message at the beginning of ``buffer``, and may."""
        if len(buffer) < _PREFIX:
            return True
        size = int.from_bytes(buffer[1:_PREFIX], "big")
        return buffer[0] <= 1 and size <= self.limit and len(buffer) < _PREFIX + size

    def _unpacked(self, flag: int, message: bytes) -> bytes:
        if not flag:
            return message
        if self._encoding is None:
            raise CallRefused(Status.INTERNAL, "the message is compressed and the call names no compression")
        unpacker = zlib.decompressobj(self._encoding)
        try:
            unpacked = unpacker.decompress(message, self.limit + 1)
        except zlib.error:
            raise CallRefused(Status.INVALID_ARGUMENT, "the message cannot be decompressed") from None
        if len(unpacked) > self.limit:
            raise self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            raise CallRefused(Status.INVALID_ARGUMENT, "the message cannot be decompressed")
        return unpacked

    def _too_large(self) -> CallRefused:
        # In words that gRPC's own libraries use, by which clients tell it from a caller that asks too often.
        return CallRefused(Status.RESOURCE_EXHAUSTED, f"the message is larger than max, which is {self.limit} bytes")


def framed(message: bytes) -> bytes:
    """``message`` behind its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message
