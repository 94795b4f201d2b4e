"""Whether to try again, and when. Pure: randomness comes in, and nothing here sleeps.

Only what is safe is tried again: a server that says it is busy or not ready has done nothing, and an inference over a
connection that broke changes nothing on the server when it is done twice. A deadline that is over, a failing model and
every mistake of the caller's are final.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from keelway.errors import KeelwayError


class Budget:
    """Retries that an outage may cost, as in gRPC's retry throttling: each failure takes a token, each success gives a
    tenth back, and there are no retries below half of the tokens. Otherwise every client would double the load of a
    server that is down already."""

    def __init__(self, tokens: float = 10.0) -> None:
        self._most = tokens
        self._tokens = tokens

    def succeeded(self) -> None:
        self._tokens = min(self._most, self._tokens + 0.1)

    def spend(self) -> bool:
        """Note a failure; whether a retry is left."""
        self._tokens = max(0.0, self._tokens - 1.0)
        return self._tokens >= self._most / 2


class RetryPolicy(msgspec.Struct, frozen=True):
    """At most ``retries`` after the first attempt. The pause before each is drawn between 0 and ``first`` seconds,
    doubled from retry to retry up to ``longest`` ("full jitter"); a server that names a time is given that time.
    ``broken`` allows retries of calls whose connection broke."""

    retries: int = 2
    first: float = 0.05
    longest: float = 2.0
    broken: bool = True

    def pause(
        self, attempt: int, error: KeelwayError, broken: bool, budget: Budget, uniform: Callable[[], float]
    ) -> float | None:
        """Seconds until the next attempt; ``None`` if there is none. ``attempt`` counts from 0."""
        if not error.code.retryable or (broken and not self.broken):
            return None
        if not budget.spend() or attempt >= self.retries:
            return None
        drawn = uniform() * min(self.longest, self.first * 2.0**attempt)
        return drawn if error.retry_after is None else error.retry_after + drawn
