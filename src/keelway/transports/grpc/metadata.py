"""What the headers of a call say: its deadline, how its messages are packed, its priority.

Other metadata, binary too (names that end in ``-bin``), are nobody's business here and stay as they are.
"""

from __future__ import annotations

from typing import NamedTuple

from keelway.edge.http2.header_blocks import Headers
from keelway.errors import InvalidInput
from keelway.transports.grpc.errors import CallRefused, Status
from keelway.transports.grpc.framing import ENCODINGS
from keelway.types import Priority

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PRIORITIES = {priority.name.lower().encode(): priority for priority in Priority}
_MOST_DIGITS = 8


class CallHead(NamedTuple):
    """``seconds`` are those that the caller gives, at most the server's own limit where there is one."""

    seconds: float
    encoding: bytes
    priority: Priority


def is_grpc(fields: Headers) -> bool:
    """Whether the content type is gRPC's, and not grpc-web's."""
    for name, value in fields:
        if name == b"content-type":
            return value == b"application/grpc" or value.startswith((b"application/grpc+", b"application/grpc;"))
    return False


def call_head(fields: Headers) -> CallHead:
    """Raises ``CallRefused`` for what breaks gRPC's rules, ``InvalidInput`` for another priority than there is."""
    seconds, encoding, priority = float("inf"), b"identity", Priority.INTERACTIVE
    for name, value in fields:
        if name == b"grpc-timeout":
            seconds = min(seconds, timeout_of(value))
        elif name == b"grpc-encoding":
            if value not in ENCODINGS:
                known = (("grpc-accept-encoding", b",".join(ENCODINGS).decode()),)
                raise CallRefused(Status.UNIMPLEMENTED, "the compression of the messages is not supported", known)
            encoding = value
        elif name == b"x-request-priority":
            found = _PRIORITIES.get(value.lower())
            if found is None:
                raise InvalidInput("x-request-priority must be interactive or batch")
            priority = found
    return CallHead(seconds, encoding, priority)


def timeout_of(value: bytes) -> float:
    """Seconds in ``grpc-timeout``: at most eight digits and a unit. ``CallRefused`` otherwise."""
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > _MOST_DIGITS:
        raise CallRefused(Status.INVALID_ARGUMENT, "grpc-timeout is no time")
    return int(digits) * unit
