"""Callers who are not known without waiting: how many may wait at once, for how long, and what becomes of surprises.

Whoever waits here has proved nothing yet. Anybody can make up tokens that name a key nobody has heard of.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

from keelway.errors import DeadlineExceeded, KeelwayError, Unavailable

log = logging.getLogger("keelway.auth")

#: Callers that may wait at once.
_MOST: Final = 256


class Introductions:
    """Counts those who wait, ``most`` at once. It lives on the event loop and needs no lock."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self.waiting = 0

    async def wait(self, news: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Until ``news`` are there. ``DeadlineExceeded`` after ``seconds``, ``Unavailable`` if too many wait."""
        if self.waiting >= self._most:
            raise Unavailable("too many callers wait to be known; try again", retry_after=1.0)
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds) as timer:
                await news()
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded("the deadline passed before it was known who calls") from None
        finally:
            self.waiting -= 1


def unforeseen(error: Exception) -> KeelwayError:
    """What a caller hears if finding out who calls has failed with ``error``. Its text is not written down either: it
    may have a credential in it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
    log.error("who calls could not be found out: %s at %s", type(error).__name__, where)
    return KeelwayError("internal error")
