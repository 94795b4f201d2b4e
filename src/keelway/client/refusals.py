"""A server's refusal as the error it was there: one class for each code, over both protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keelway.errors import (
    AlreadyExists,
    Cancelled,
    CorruptArtifact,
    DeadlineExceeded,
    ErrorCode,
    FailedPrecondition,
    InvalidInput,
    KeelwayError,
    ModelFailed,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

#: The class of each code. A test says that it is complete.
CLASSES: Final[Mapping[ErrorCode, type[KeelwayError]]] = {
    ErrorCode.CANCELLED: Cancelled,
    ErrorCode.INVALID_ARGUMENT: InvalidInput,
    ErrorCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    ErrorCode.NOT_FOUND: NotFound,
    ErrorCode.ALREADY_EXISTS: AlreadyExists,
    ErrorCode.PERMISSION_DENIED: PermissionDenied,
    ErrorCode.RESOURCE_EXHAUSTED: RateLimited,
    ErrorCode.FAILED_PRECONDITION: FailedPrecondition,
    ErrorCode.OUT_OF_RANGE: PayloadTooLarge,
    ErrorCode.UNIMPLEMENTED: Unsupported,
    ErrorCode.INTERNAL: ModelFailed,
    ErrorCode.UNAVAILABLE: Unavailable,
    ErrorCode.DATA_LOSS: CorruptArtifact,
    ErrorCode.UNAUTHENTICATED: Unauthenticated,
}


def refusal(code: ErrorCode, message: str, field: str | None = None, retry_after: float | None = None) -> KeelwayError:
    """The error of ``code``. ``retry_after`` in seconds."""
    return CLASSES[code](message, field=field, retry_after=retry_after)


def no_server(address: str) -> Unavailable:
    return Unavailable(f"no server answers at {address}", hint="start one with keelway serve, or check the address")


def connection_broke(address: str) -> Unavailable:
    return Unavailable(f"the connection to {address} broke before the answer was whole")


def time_is_over(address: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"{address} did not answer in the time for this call")


def no_keelway(address: str) -> Unavailable:
    return Unavailable(f"what {address} answers is no answer of keelway's", hint="is it a keelway server?")
