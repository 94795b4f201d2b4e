"""What the headers of a request say, or that they are none (RFC 9113, 8.2 and 8.3)."""

from __future__ import annotations

import re
from typing import NamedTuple

from keelway.edge.http2.frames import Http2Error, StreamFailure
from keelway.edge.http2.header_blocks import Headers

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_FORBIDDEN = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z").search
#: Of connections of HTTP/1.1, and of no meaning here.
_OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_LONGEST_LENGTH = 15


class RequestHead(NamedTuple):
    """``fields`` without the pseudo-header fields. ``length`` is what the body is said to have, in bytes; -1 if nothing
    is said. ``size`` is that of all headers as RFC 9113 counts them (6.5.2)."""

    method: bytes
    path: bytes
    fields: Headers
    length: int
    size: int


def request_head(headers: Headers) -> RequestHead:
    """The head that ``headers`` are. ``StreamFailure`` if they are malformed."""
    pseudo: dict[bytes, bytes] = {}
    fields: list[tuple[bytes, bytes]] = []
    length, size = -1, 0
    for name, value in headers:
        size += len(name) + len(value) + 32
        if _FORBIDDEN(value):
            raise _malformed("a header value holds what none may")
        if name[:1] == b":":
            if name not in _PSEUDO or name in pseudo or fields:
                raise _malformed("a pseudo-header field is unknown, twice there, or late")
            pseudo[name] = value
            continue
        if name == b"content-length":
            length = _length(value, length)
        elif name in _OF_CONNECTIONS or (name == b"te" and value.lower() != b"trailers"):
            raise _malformed("a header of HTTP/1.1's connections")
        elif not _NAME(name):
            raise _malformed("a header name is none")
        fields.append((name, value))
    if not (pseudo.get(b":method") and pseudo.get(b":scheme") and pseudo.get(b":path")):
        raise _malformed("method, scheme or path is missing")
    return RequestHead(pseudo[b":method"], pseudo[b":path"], fields, length, size)


def check_trailers(headers: Headers) -> None:
    """``StreamFailure`` if ``headers`` cannot stand behind a body."""
    for name, value in headers:
        if not _NAME(name) or name in _OF_CONNECTIONS or _FORBIDDEN(value):
            raise _malformed("the trailers are malformed")


def _length(value: bytes, before: int) -> int:
    if not value.isdigit() or len(value) > _LONGEST_LENGTH or before not in (-1, int(value)):
        raise _malformed("the length of the body is no number")
    return int(value)


def _malformed(reason: str) -> StreamFailure:
    return StreamFailure(Http2Error.PROTOCOL_ERROR, reason)
