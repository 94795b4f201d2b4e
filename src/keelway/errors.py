"""Every error keelway raises on purpose, and the one vocabulary that transports translate.

The tree::

    KeelwayError
    ├── InvalidInput            the caller's values, names, shapes or datatypes do not fit   (INVALID_ARGUMENT)
    │   ├── MalformedRequest    the bytes are not what the format says they are              (INVALID_ARGUMENT)
    │   ├── AnomalousInput      rows unlike those the model was made for, by policy          (INVALID_ARGUMENT)
    │   └── RowsRefused         rows that only the model's own steps could judge             (INVALID_ARGUMENT)
    ├── PayloadTooLarge         a byte, row or nesting cap was passed                        (OUT_OF_RANGE)
    ├── Unauthenticated         no credential, or one that does not hold                     (UNAUTHENTICATED)
    ├── PermissionDenied        a known caller without the scope, or a feature switched off  (PERMISSION_DENIED)
    ├── NotFound                no such model, version, alias or file                        (NOT_FOUND)
    ├── AlreadyExists           that version is taken by other content                       (ALREADY_EXISTS)
    ├── FailedPrecondition      the request is sound, the state of the system is not         (FAILED_PRECONDITION)
    │   ├── ConversionRefused   a model could not be converted with proof                    (FAILED_PRECONDITION)
    │   ├── Overtaken           the model was changed after a push of it was decided on      (FAILED_PRECONDITION)
    │   └── UntrustedArtifact   a file that may not be opened without the operator's consent (FAILED_PRECONDITION)
    ├── CorruptArtifact         bytes that differ from their manifest, or a hostile archive  (DATA_LOSS)
    ├── RateLimited             this caller asked too often                                  (RESOURCE_EXHAUSTED)
    │   └── Probing             its rows are nearly equal, too often, by policy              (RESOURCE_EXHAUSTED)
    ├── Overloaded              the server has no permit left                                (UNAVAILABLE)
    ├── Unavailable             a dependency, or a model that is not ready                   (UNAVAILABLE)
    ├── DeadlineExceeded        the caller's time is up                                      (DEADLINE_EXCEEDED)
    ├── Cancelled               the caller has left                                          (CANCELLED)
    ├── Unsupported             a valid request for something not implemented                (UNIMPLEMENTED)
    └── ModelFailed             the model itself raised; its text stays in the log           (INTERNAL)

A message is written for the caller: it may name fields, limits and datatypes, never the caller's values and never an
internal path or exception text. A test walks this tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

Raised = TypeVar("Raised", bound=Exception)


class ErrorCode(StrEnum):
    """The subset of gRPC's canonical codes that keelway uses. Each transport owns one table from code to status."""

    CANCELLED = "CANCELLED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without any change by the caller."""
        return self in _RETRYABLE


_RETRYABLE = frozenset({ErrorCode.RESOURCE_EXHAUSTED, ErrorCode.UNAVAILABLE})


class KeelwayError(Exception):
    """Base of every deliberate error.

    ``message`` is shown to the caller. ``field`` names the input, column or option at fault, where there is one.
    ``hint`` says what to do next; the command line prints it after the message. ``retry_after`` is in seconds.
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(
        self, message: str, *, field: str | None = None, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint
        self.retry_after = retry_after


class InvalidInput(KeelwayError):
    """``anomalies`` says how many rows of the request each detector has found, where the whole request is refused."""

    code = ErrorCode.INVALID_ARGUMENT
    anomalies: Mapping[str, int] = {}


class MalformedRequest(InvalidInput):
    pass


class AnomalousInput(InvalidInput):
    pass


class RowsRefused(InvalidInput):
    """Raised by a runtime that refuses some rows of a run and could answer the others, as steps that read pictures or
    text do.

    ``errors`` maps the position of each refused row in the run to its error.
    """

    errors: Mapping[int, InvalidInput] = {}

    @classmethod
    def of(cls, errors: Mapping[int, InvalidInput]) -> RowsRefused:
        """With the message of the first of ``errors``, one at least, and its position."""
        row, first = min(errors.items())
        refused = cls(f"row {row}: {first.message}", field=first.field, hint=first.hint)
        refused.errors = {position: bare(error) for position, error in errors.items()}
        return refused


def bare(error: Raised) -> Raised:
    """``error`` without where it was raised: the frames of its traceback hold the request, and a request that holds its
    error is a ring. The garbage collector would stop all others to find it, and does not look into all that travels."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


class PayloadTooLarge(KeelwayError):
    code = ErrorCode.OUT_OF_RANGE


class Unauthenticated(KeelwayError):
    """``presented``: credentials came along, and do not hold."""

    code = ErrorCode.UNAUTHENTICATED
    presented: bool = False


class PermissionDenied(KeelwayError):
    code = ErrorCode.PERMISSION_DENIED


class NotFound(KeelwayError):
    code = ErrorCode.NOT_FOUND


class AlreadyExists(KeelwayError):
    code = ErrorCode.ALREADY_EXISTS


class FailedPrecondition(KeelwayError):
    code = ErrorCode.FAILED_PRECONDITION


class ConversionRefused(FailedPrecondition):
    pass


class Overtaken(FailedPrecondition):
    pass


class UntrustedArtifact(FailedPrecondition):
    pass


class CorruptArtifact(KeelwayError):
    code = ErrorCode.DATA_LOSS


class RateLimited(KeelwayError):
    """``fields`` tell what the rule is and how much of it is left: names of HTTP's and what stands in them."""

    code = ErrorCode.RESOURCE_EXHAUSTED
    fields: tuple[tuple[bytes, bytes], ...] = ()


class Probing(RateLimited):
    """``anomalies`` is as in ``InvalidInput``."""

    anomalies: Mapping[str, int] = {}


class Overloaded(KeelwayError):
    code = ErrorCode.UNAVAILABLE


class Unavailable(KeelwayError):
    code = ErrorCode.UNAVAILABLE


class DeadlineExceeded(KeelwayError):
    code = ErrorCode.DEADLINE_EXCEEDED


class Cancelled(KeelwayError):
    code = ErrorCode.CANCELLED


class Unsupported(KeelwayError):
    code = ErrorCode.UNIMPLEMENTED


class ModelFailed(KeelwayError):
    code = ErrorCode.INTERNAL
