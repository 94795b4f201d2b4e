"""What goes wrong, as errors of the one tree: what a server said, by its code, and what the client itself cannot do.

Messages of the client's own name the address and nothing that the caller has sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keelway.client.retries import Failure, Repeat
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

#: The class of each code. Servers send codes, so a class that shares its code with another arrives as the more general
#: one: an ``Overloaded`` as ``Unavailable``. A test says that it is complete.
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

#: Characters of a message that are kept: what answers may be no server of ours.
_LONGEST_MESSAGE = 2000


def error_of(
    code: ErrorCode, message: str, field: str | None = None, retry_after: float | None = None, request_id: str = ""
) -> KeelwayError:
    """The error that a server has named. The request id becomes a note, which a traceback shows."""
    error = CLASSES[code](message[:_LONGEST_MESSAGE], field=field or None, retry_after=retry_after)
    if request_id:
        error.add_note(f"request id: {request_id}")
    return error


def refused(error: KeelwayError) -> Failure:
    """A server has refused, and says by its code whether the same request may succeed later."""
    return Failure(error, Repeat.SAFE if error.code.retryable else Repeat.NEVER)


def too_late(address: str) -> KeelwayError:
    return DeadlineExceeded(f"{address} did not answer in time")


def no_connection_free(address: str) -> Failure:
    return Failure(DeadlineExceeded(f"no connection to {address} became free in time", hint="raise max_connections"))


def not_reached(address: str) -> Failure:
    return Failure(
        Unavailable(f"no server answers at {address}", hint="is it running, and is the address right?"), Repeat.SAFE
    )


def not_trusted(address: str) -> Failure:
    return Failure(
        Unavailable(f"no trusted connection to {address}", hint="check ca_certificate, and the name in the address")
    )


def broken(address: str) -> Failure:
    return Failure(Unavailable(f"the connection to {address} broke"), Repeat.IF_HARMLESS)


def strange(address: str) -> Failure:
    """Something answered, but not as a server of ours does."""
    return Failure(
        Unavailable(f"{address} does not answer as a keelway server", hint="is there another server at that address?")
    )


def too_large(address: str, limit: int) -> Failure:
    return Failure(
        PayloadTooLarge(f"the answer of {address} is larger than {limit} bytes", hint="raise max_answer_bytes")
    )
