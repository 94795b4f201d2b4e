"""Single flight: of equal requests at once one leads and computes, the others follow.

A leader that leaves hands over to a follower. One that fails does so too, once; after a second failure everybody
computes for itself, as if there were no cache: a model that fails slowly would otherwise keep them in a queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

from keelway.cache.entries import Entry

_FAILURES: Final = 2


class Turn(Enum):
    """What a follower has to do whose leader found nothing."""

    LEAD = "compute, for the others too"
    ALONE = "compute, for yourself"


class Flight:
    """One key that is being computed, since ``began`` on the monotonic clock. ``entry`` is what came of it."""

    __slots__ = ("_failures", "_waiting", "began", "entry", "is_over", "key")

    def __init__(self, key: bytes, began: float) -> None:
        self.key = key
        self.began = began
        self.entry: Entry | None = None
        self.is_over = False
        self._failures = 0
        self._waiting: deque[asyncio.Future[Entry | Turn]] | None = None

    async def follow(self, gone: Callable[[Flight], None]) -> Entry | Turn:
        """What the leader found, or whose turn it is; not to be asked of a flight that is over. Cancelled, it takes
        itself out; ``gone`` is called if the flight is left without anybody by that."""
        waiter: asyncio.Future[Entry | Turn] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            # Called to lead and cancelled in one turn of the loop: the call goes on to the next.
            called = waiter.done() and not waiter.cancelled() and waiter.result() is Turn.LEAD
            if called and not self.hand_over(failed=False):
                gone(self)
            raise

    def arrive(self, entry: Entry | None) -> None:
        """Give every follower ``entry``; without one each computes for itself."""
        self.entry = entry
        self._end(Turn.ALONE if entry is None else entry)

    def hand_over(self, *, failed: bool) -> bool:
        """Call a follower to lead, after the leader has left or ``failed``. False if nobody is left to be called."""
        self._failures += failed
        if self._failures >= _FAILURES:
            self._end(Turn.ALONE)
            return False
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(Turn.LEAD)
                return True
        self.is_over = True
        return False

    def _end(self, told: Entry | Turn) -> None:
        self.is_over = True
        waiting, self._waiting = self._waiting, None
        for waiter in waiting or ():
            if not waiter.done():
                waiter.set_result(told)
