"""Errors as HTTP: one table from code to status, and the three body forms that the route families promise.

Open Inference Protocol and TensorFlow Serving routes: ``{"error": text}``. MLflow's: ``{"error_code", "message"}``.
Ours: a problem document (RFC 9457).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson

from keelway.errors import ErrorCode, KeelwayError, RateLimited, Unauthenticated

#: The status of each error code. A test says that it is complete.
STATUS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.INVALID_ARGUMENT: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.ALREADY_EXISTS: 409,
    ErrorCode.FAILED_PRECONDITION: 409,
    ErrorCode.OUT_OF_RANGE: 413,
    ErrorCode.RESOURCE_EXHAUSTED: 429,
    ErrorCode.CANCELLED: 499,
    ErrorCode.INTERNAL: 500,
    ErrorCode.DATA_LOSS: 500,
    ErrorCode.UNIMPLEMENTED: 501,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.DEADLINE_EXCEEDED: 504,
}

#: RFC 6750, 3: who has shown nothing is told how, who has shown something that it does not hold.
_CHALLENGE: Final = b'Bearer realm="keelway"'
_INVALID: Final = _CHALLENGE + b', error="invalid_token"'

ErrorBody = Callable[[int, str, KeelwayError | None, str], tuple[bytes, bytes]]


class HttpRefusal(Exception):
    """A refusal that only HTTP knows: a method, a media type, a host. ``headers`` go with the reply."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def protocol_error(status: int, message: str, error: KeelwayError | None, request_id: str) -> tuple[bytes, bytes]:
    """``{"error": text}``, as the Open Inference Protocol and TensorFlow Serving have it."""
    return orjson.dumps({"error": message}), b"application/json"


def mlflow_error(status: int, message: str, error: KeelwayError | None, request_id: str) -> tuple[bytes, bytes]:
    """MLflow's form, with its names of the codes where it has one."""
    code = {400: "BAD_REQUEST", 404: "RESOURCE_DOES_NOT_EXIST", 500: "INTERNAL_ERROR"}.get(
        status, str(error.code) if error else "BAD_REQUEST"
    )
    return orjson.dumps({"error_code": code, "message": message}), b"application/json"


def problem(status: int, message: str, error: KeelwayError | None, request_id: str) -> tuple[bytes, bytes]:
    """A problem document (RFC 9457), with ``code``, ``field`` where one is known, and ``request_id``."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": phrase(status),
        "status": status,
        "detail": message,
        "request_id": request_id,
    }
    if error is not None:
        document["code"] = str(error.code)
        if error.field:
            document["field"] = error.field
    return orjson.dumps(document), b"application/problem+json"


def error_body_of(path: str) -> ErrorBody:
    """The form of errors on a route that is no inference. What is below ``/v1/models/`` is TensorFlow Serving's."""
    return protocol_error if path.startswith(("/v2", "/v1/models/")) else problem


def phrase(status: int) -> str:
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase


def error_reply(
    error: KeelwayError | HttpRefusal, body: ErrorBody, request_id: str
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the reply to ``error``."""
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, HttpRefusal):
        status, known = error.status, None
        headers.extend(error.headers)
    else:
        status, known = STATUS[error.code], error
        if error.retry_after is not None:
            headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after)))
        if isinstance(error, RateLimited):
            headers.extend(error.fields)
        if status == 401:
            presented = isinstance(error, Unauthenticated) and error.presented
            headers.append((b"www-authenticate", _INVALID if presented else _CHALLENGE))
    content, media_type = body(status, error.message, known, request_id)
    headers += [
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(content)),
        (b"x-request-id", request_id.encode()),
    ]
    return status, headers, content
