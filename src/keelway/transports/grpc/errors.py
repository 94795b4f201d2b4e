"""Errors as gRPC statuses: the codes are the same, and a test says that none is missing.

The request id, the field at fault and when to try again travel in the trailing metadata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import grpc

from keelway.errors import ErrorCode, KeelwayError

#: The status of each error code.
STATUS: Final[Mapping[ErrorCode, grpc.StatusCode]] = {code: grpc.StatusCode[code.name] for code in ErrorCode}

REQUEST_ID: Final = "x-request-id"
FIELD: Final = "keelway-error-field"
#: What gRPC's own clients look at before they try again, in milliseconds.
PUSHBACK: Final = "grpc-retry-pushback-ms"


def trailing_metadata(error: KeelwayError, request_id: str) -> tuple[tuple[str, str], ...]:
    """What goes with the status of ``error``. Metadata is ASCII: a field that is not, is left out."""
    metadata = [(REQUEST_ID, request_id)]
    if error.field and error.field.isascii() and error.field.isprintable():
        metadata.append((FIELD, error.field))
    if error.retry_after is not None:
        metadata.append((PUSHBACK, str(math.ceil(error.retry_after * 1000))))
    return tuple(metadata)
