"""Looking for the next request a moment before going to sleep.

A process that sleeps between the requests of one caller pays for each awakening: the processor has forgotten what it
was doing, on a virtual machine nearly all of it, and the same work takes two to three times as long. So the event loop
stays awake for some microseconds behind an answer that came alone, as long as that pays: every time that nothing comes,
more answers pass until it is tried again.
"""

from __future__ import annotations

import asyncio

from keelway.clock import Clock

#: Times in a row that nothing may come before answers pass untried, twice as many each time; and the most of them.
_PATIENCE, _LONGEST_REST = 4, 1024


class BusyPoll:
    """One for all connections of an event loop. ``microseconds`` is how long it stays awake; 0: never."""

    __slots__ = ("_misses", "_now", "_resting", "_seconds", "_until")

    def __init__(self, microseconds: float, clock: Clock) -> None:
        self._seconds = microseconds * 1e-6
        self._now = clock.monotonic
        self._until = 0.0
        self._misses = 0
        self._resting = 0

    def answered(self) -> None:
        """An answer was given, and there is nothing else to do now. Called on the running loop."""
        if self._until:
            # Its request came while the loop was awake for it.
            self._misses = 0
            self._until = self._now() + self._seconds
        elif self._resting:
            self._resting -= 1
        elif self._seconds:
            self._until = self._now() + self._seconds
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        # What is called soon lets the loop look at its sockets, and keeps it from sleeping on them.
        if self._now() < self._until:
            asyncio.get_running_loop().call_soon(self._look)
            return
        self._until = 0.0
        self._misses += 1
        if self._misses > _PATIENCE:
            self._resting = min(2 ** (self._misses - _PATIENCE), _LONGEST_REST)
