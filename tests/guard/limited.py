"""A rate limiter by rules in words, what it has been told and has told: shared by the tests of its two stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from typing import Any

from keelway.clock import Clock
from keelway.errors import KeelwayError, RateLimited
from keelway.guard.rate_rules import parse_rules
from keelway.guard.ratelimit import RateLimiter
from keelway.testing import FakeClock
from keelway.types import Peer, Principal

ACME, BETA = Principal("acme"), Principal("beta")
HERE, THERE = Peer("192.0.2.1"), Peer("192.0.2.2")


class Limited:
    """``ask`` is one request, whose rows are ``rows``: whether it was let through."""

    def __init__(self, *rules: str, clock: Clock | None = None, most: int = 1000, **more: Any) -> None:
        self.clock: Any = clock or FakeClock(start=1000.0)
        self.noticed: Counter[str] = Counter()
        self.limiter = RateLimiter(
            parse_rules(rules), self.clock, most=most, noted=lambda rule: self.noticed.update([rule.scope]), **more
        )
        self.error: KeelwayError | None = None
        self.field = b""

    async def ask(
        self, principal: Principal = ACME, peer: Peer = HERE, model: str = "churn", rows: int = 1, seconds: float = 30.0
    ) -> bool:
        self.error = self.limiter.enter(principal, peer)
        if self.error is not None:
            return False
        try:
            charged = self.limiter.charge(principal, peer, model, rows, seconds)
            self.field = await charged if isinstance(charged, Awaitable) else charged
        except KeelwayError as error:
            self.error = error
            return False
        return True

    async def let_through(self, times: int, **request: Any) -> int:
        """How many of so many equal requests."""
        return sum([await self.ask(**request) for _ in range(times)])

    @property
    def refusal(self) -> RateLimited:
        assert isinstance(self.error, RateLimited)
        return self.error
