"""When a call is tried again, and after how long. Pure: no clock, no randomness, no I/O; ``attempts.py`` asks it."""

from __future__ import annotations

from enum import Enum, auto

import msgspec

from keelway.errors import KeelwayError


class Repeat(Enum):
    """Whether the same request may be sent again."""

    #: The server has refused it without doing it, or was never reached.
    SAFE = auto()
    #: The connection broke under way: the server may have done it, and may do it twice.
    IF_HARMLESS = auto()
    #: It would fail again, or nobody waits for it any more.
    NEVER = auto()


class Failure(msgspec.Struct, frozen=True):
    """An attempt without an answer: the error that the caller gets if it was the last one."""

    error: KeelwayError
    repeat: Repeat = Repeat.NEVER


class RetryPolicy(msgspec.Struct, frozen=True):
    """``retries`` is the number of attempts after the first. ``resend`` allows ``Repeat.IF_HARMLESS``.

    Pauses grow twofold from ``first_pause`` to ``longest_pause``, in seconds, and each is drawn anew from nothing to
    that (full jitter), so that callers who failed together do not come back together.
    """

    retries: int = 2
    resend: bool = True
    first_pause: float = 0.05
    longest_pause: float = 2.0

    def pause(self, failure: Failure, attempt: int, left: float, draw: float) -> float | None:
        """Seconds to wait after the failure of ``attempt`` (the first is 1); ``None``: not again.

        ``left`` are the seconds to the deadline, which no pause reaches: then the caller learns at once. ``draw`` is
        random, from 0 to 1. What the server asks for with ``retry_after`` is waited in full.
        """
        if attempt > self.retries or not self._allows(failure.repeat):
            return None
        ceiling = min(self.longest_pause, self.first_pause * 2.0 ** min(attempt - 1, 60))
        pause = (failure.error.retry_after or 0.0) + draw * ceiling
        return pause if pause < left else None

    def _allows(self, repeat: Repeat) -> bool:
        return repeat is Repeat.SAFE or (repeat is Repeat.IF_HARMLESS and self.resend)


class RetryBudget:
    """Tokens that keep an outage from being amplified, as gRPC's retry throttling does: each failure that could be
    retried takes one, each success gives back ``ratio`` of one, and retries need more than half of ``capacity``.

    Not locked: an update that two threads lose to each other costs a fraction of a retry.
    """

    def __init__(self, capacity: float = 20.0, ratio: float = 0.1) -> None:
        self._capacity = capacity
        self._ratio = ratio
        self._tokens = capacity

    @property
    def allows(self) -> bool:
        return self._tokens > self._capacity / 2

    def failed(self) -> None:
        self._tokens = max(0.0, self._tokens - 1.0)

    def succeeded(self) -> None:
        self._tokens = min(self._capacity, self._tokens + self._ratio)
