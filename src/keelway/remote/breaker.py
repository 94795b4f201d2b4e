"""A circuit breaker: after so many failures in a row what fails is not asked for a while, and then by one at first.

Pure but for the clock it is given. Whoever asks says afterwards how it went.
"""

from __future__ import annotations

from collections.abc import Callable

from keelway.clock import Clock


class Breaker:
    """Opens after ``failures`` in a row, for ``pause`` seconds. ``turned`` is told when it opens (true) and closes."""

    def __init__(
        self, failures: int, pause: float, clock: Clock, turned: Callable[[bool], None] = lambda is_open: None
    ) -> None:
        self._limit = failures
        self._pause = pause
        self._clock = clock
        self._turned = turned
        self._failed = 0
        self._asks_again = 0.0
        self.is_open = False

    def allows(self) -> bool:
        """Whether to ask now. While it is open one may try each ``pause``; the others are not kept waiting for it."""
        if not self.is_open:
            return True
        now = self._clock.monotonic()
        if now < self._asks_again:
            return False
        self._asks_again = now + self._pause
        return True

    def left(self) -> None:
        """Whoever asked has not heard how it went: another one may try at once."""
        if self.is_open:
            self._asks_again = self._clock.monotonic()

    def succeeded(self) -> None:
        self._failed = 0
        if self.is_open:
            self.is_open = False
            self._turned(False)

    def failed(self) -> None:
        self._failed += 1
        if self.is_open or self._failed >= self._limit:
            self._asks_again = self._clock.monotonic() + self._pause
            if not self.is_open:
                self.is_open = True
                self._turned(True)
