"""Admission: a bounded number of requests at once, decided from the headers alone, before a byte is parsed.

A fixed cap and, below it, a limit that follows how long answers take (``concurrency.py``). Batch requests leave a
quarter of it to interactive ones, so that they are the first to be refused.
"""

from __future__ import annotations

from keelway.errors import Overloaded
from keelway.guard.concurrency import Window, is_slow, next_limit
from keelway.types import Priority

#: A look is taken after so many answers and so many seconds, whichever comes last.
_LOOK_ANSWERS, _LOOK_SECONDS = 20, 0.1
#: Seconds after which what a model took at best counts a little less, in case it has become slower for good.
_FORGET_SECONDS, _FORGET = 30.0, 1.1


class Admission:
    """Counts the requests being answered. It lives on the event loop, which is why it needs no lock."""

    def __init__(self, max_in_flight: int, *, adaptive: bool = False) -> None:
        self._cap = max_in_flight
        self._adaptive = adaptive
        self.in_flight = 0
        #: Requests that may be answered at once now.
        self.limit = max_in_flight
        self._minima: dict[str, float] = {}
        self._answered = self._slow = self._peak = 0
        self._looked = self._forgot = 0.0

    def enter(self, priority: Priority = Priority.INTERACTIVE) -> None:
        """Take a permit, to be given back with ``leave``. Raises ``Overloaded`` when none is left."""
        if not self.try_enter(priority):
            raise overloaded()

    def try_enter(self, priority: Priority = Priority.INTERACTIVE) -> bool:
        """Take a permit if one is left; whether it was."""
        limit = self.limit if priority is Priority.INTERACTIVE else self.limit - self.limit // 4
        if self.in_flight >= limit:
            return False
        self.in_flight += 1
        if self.in_flight > self._peak:
            self._peak = self.in_flight
        return True

    def leave(self) -> None:
        self.in_flight -= 1

    def answered(self, model: str, seconds: float, allowed: float, now: float) -> None:
        """A request of ``model`` was answered, or its time was up, ``seconds`` after it came; its caller gave
        ``allowed`` seconds. ``now`` is on the monotonic clock."""
        if not self._adaptive:
            return
        self._answered += 1
        minimum = self._minima.get(model)
        if minimum is None or seconds < minimum:
            self._minima[model] = seconds
        elif is_slow(seconds, allowed, minimum):
            self._slow += 1
        if self._answered >= _LOOK_ANSWERS and now - self._looked >= _LOOK_SECONDS:
            self._look(now)

    def _look(self, now: float) -> None:
        self.limit = next_limit(self.limit, Window(self._answered, self._slow, self._peak), self._cap)
        self._answered, self._slow, self._peak, self._looked = 0, 0, self.in_flight, now
        if now - self._forgot >= _FORGET_SECONDS:
            self._forgot = now
            self._minima = {model: minimum * _FORGET for model, minimum in self._minima.items()}


def overloaded() -> Overloaded:
    """Why a request without a permit is refused."""
    return Overloaded("the server is answering as many requests as it may; try again", retry_after=1.0)
