"""One call as data: what is sent, what came back, and how many times it is tried. No input or output happens here.

``rest_format.py`` and ``grpc_format.py`` make calls and read replies; ``rest_connection.py`` and ``grpc_connection.py``
send them. ``conduct`` is the course of a call: a generator that says what to do next and is told what came of it, so
that the blocking and the awaiting client share it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Generic, NamedTuple, TypeVar

import msgspec

from keelway.client.retries import Budget, RetryPolicy
from keelway.clock import Clock
from keelway.errors import DeadlineExceeded, ErrorCode, KeelwayError

Result = TypeVar("Result")


class Reply(NamedTuple):
    """What came back. With an ``error`` the call was refused or never arrived; ``broken`` says that the connection
    ended in between, so nobody knows whether the server has seen the call."""

    body: bytes = b""
    headers: Mapping[str, str] = {}
    error: KeelwayError | None = None
    broken: bool = False


class Call(msgspec.Struct, Generic[Result], frozen=True):
    """``path`` is that of the route or of the method. ``method`` and ``headers`` are REST's. An error whose code is in
    ``expected`` is an answer too, for ``read`` to make sense of."""

    path: str
    read: Callable[[Reply], Result]
    body: bytes = b""
    method: str = "POST"
    headers: Mapping[str, str] = {}
    expected: frozenset[ErrorCode] = frozenset()


class Send(NamedTuple):
    """Send the call, and wait for its reply no longer than ``timeout`` seconds."""

    timeout: float


class Pause(NamedTuple):
    """Wait ``seconds``."""

    seconds: float


Step = Send | Pause


def conduct(
    call: Call[Result], timeout: float, policy: RetryPolicy, budget: Budget, clock: Clock, uniform: Callable[[], float]
) -> Generator[Step, Reply | None, Result]:
    """The steps of ``call`` until its result. ``timeout`` in seconds is for all attempts together; ``uniform`` draws
    from [0, 1).

    Raises the last error of the server, or ``DeadlineExceeded`` when the time was over before there was one.
    """
    deadline = clock.monotonic() + timeout
    error: KeelwayError = DeadlineExceeded("the time for this call was over before it was answered")
    for attempt in range(policy.retries + 1):
        left = deadline - clock.monotonic()
        if left <= 0:
            break
        reply = (yield Send(left)) or Reply()
        if reply.error is None or reply.error.code in call.expected:
            budget.succeeded()
            return call.read(reply)
        error = reply.error
        pause = policy.pause(attempt, error, reply.broken, budget, uniform)
        if pause is None or pause >= deadline - clock.monotonic():
            break
        yield Pause(pause)
    raise error
