"""Errors as gRPC statuses: the codes are the same, and a test says that none is missing.

The request id, the field at fault and when to try again travel in the trailing metadata.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from keelway.edge.http2.application import Response
from keelway.edge.http2.header_blocks import written
from keelway.errors import ErrorCode, KeelwayError, RateLimited

log = logging.getLogger("keelway.grpc")


class Status(IntEnum):
    """gRPC's status codes, all of them."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


#: The status of each error code.
STATUS: Final[Mapping[ErrorCode, Status]] = {code: Status[code.name] for code in ErrorCode}

REQUEST_ID: Final = "x-request-id"
FIELD: Final = "keelway-error-field"
#: What gRPC's own clients look at before they try again, in milliseconds.
PUSHBACK: Final = "grpc-retry-pushback-ms"
#: The same in seconds, for whoever reads it as over REST.
RETRY_AFTER: Final = "retry-after"

CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
OK_HEAD: Final = written([(b":status", b"200"), CONTENT_TYPE])
OK_TRAILERS: Final = written([(b"grpc-status", b"0")])


class CallRefused(Exception):
    """A call that is none by gRPC's own rules. ``metadata`` go with its status."""

    def __init__(self, status: Status, message: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.metadata = metadata


def trailing_metadata(error: KeelwayError, request_id: str) -> tuple[tuple[str, str], ...]:
    """What goes with the status of ``error``. Metadata is ASCII: a field that is not, is left out."""
    metadata = [(REQUEST_ID, request_id)]
    if error.field and error.field.isascii() and error.field.isprintable():
        metadata.append((FIELD, error.field))
    if error.retry_after is not None:
        metadata.append((PUSHBACK, str(math.ceil(error.retry_after * 1000))))
        metadata.append((RETRY_AFTER, str(math.ceil(error.retry_after))))
    if isinstance(error, RateLimited):
        metadata += [(name.decode(), value.decode()) for name, value in error.fields]
    return tuple(metadata)


def refusal(error: Exception, request_id: str) -> Response:
    """The whole answer to a call that failed with ``error``: trailers alone."""
    return Response(OK_HEAD + refused_trailers(error, request_id), b"", b"")


def refused_trailers(error: Exception, request_id: str) -> bytes:
    """The trailers of a call that failed with ``error``; of an unknown one the caller learns nothing but the request
    id."""
    if isinstance(error, CallRefused):
        status, metadata = error.status, (*error.metadata, (REQUEST_ID, request_id))
        message = error.message
    else:
        if not isinstance(error, KeelwayError):
            log.error("a call failed with %s", type(error).__name__, exc_info=error, extra={"request_id": request_id})
            error = KeelwayError("internal error")
        status, metadata = STATUS[error.code], trailing_metadata(error, request_id)
        message = error.message
    headers = [(b"grpc-status", b"%d" % status), (b"grpc-message", percent_encoded(message))]
    headers += [(name.encode(), value.encode()) for name, value in metadata]
    return written(headers)


def percent_encoded(message: str) -> bytes:
    """``message`` as the header ``grpc-message`` carries it: printable ASCII, the rest in percent."""
    return b"".join([_ENCODED[byte] for byte in message.encode()])


_ENCODED = [bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != ord("%") else b"%%%02X" % byte for byte in range(256)]
