"""One call from its first attempt to its result: deadline, attempts and pauses, as steps that others take.

A generator instead of a loop with I/O, so that the clients for threads and for asyncio share every decision. It sends
nothing and does not sleep.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

import msgspec

from keelway.client.failures import too_late
from keelway.client.retries import Failure, Repeat, RetryBudget, RetryPolicy
from keelway.clock import Clock
from keelway.errors import DeadlineExceeded, Unavailable

Result = TypeVar("Result")


class Call(msgspec.Struct, Generic[Result], frozen=True):
    """A request, and how its reply is read. What both are is between a protocol and its connections.

    ``unreachable`` is the result of a question that a server which cannot be reached answers too: it is asked once.
    """

    request: Any
    read: Callable[[Any], Result | Failure]
    unreachable: Result | msgspec.UnsetType = msgspec.UNSET


class Send(msgspec.Struct, frozen=True):
    """Send ``request`` and give back the reply, or the ``Failure`` to get one within ``seconds``."""

    request: Any
    seconds: float


class Pause(msgspec.Struct, frozen=True):
    """Wait ``seconds``."""

    seconds: float


Steps = Generator[Send | Pause, Any, Result]


def attempts(
    call: Call[Result],
    address: str,
    timeout: float,
    policy: RetryPolicy,
    budget: RetryBudget,
    clock: Clock,
    draw: Callable[[], float],
) -> Steps[Result]:
    """The steps of ``call`` within ``timeout`` seconds, all attempts together. Raises the error of the last attempt."""
    deadline = clock.monotonic() + timeout
    attempt = 1
    while True:
        left = deadline - clock.monotonic()
        if left <= 0:
            raise too_late(address)
        reply = yield Send(call.request, left)
        result = reply if isinstance(reply, Failure) else call.read(reply)
        if not isinstance(result, Failure):
            budget.succeeded()
            return result
        error = result.error
        if call.unreachable is not msgspec.UNSET and isinstance(error, Unavailable | DeadlineExceeded):
            return call.unreachable
        if result.repeat is Repeat.NEVER:
            raise error
        budget.failed()
        pause = policy.pause(result, attempt, deadline - clock.monotonic(), draw())
        if pause is None or not budget.allows:
            raise error
        yield Pause(pause)
        attempt += 1
