"""How much each caller has used of one rule, in the memory of this process: exact for so many callers, and bounded.

Two windows are kept, this one and the one before; what is older goes with its window, whole. When more callers come
than are counted apart, nobody's count is thrown away to make room, since that would let a crowd of addresses wash away
the count of a busy one: those who come too late share counters, many of them, each the sum of a few callers. Their use
is never taken for less than it is.
"""

from __future__ import annotations

import math
from typing import Final

from keelway.ports import Use

#: Counters of those who come too late; a power of two.
CROWD: Final = 4096


class Windows:
    """Use of one rule over ``seconds`` by whom it is counted for. ``most`` newcomers are counted apart in a window;
    those who were known in the window before may be as many again."""

    __slots__ = ("_before", "_before_crowd", "_crowd", "_current", "_most", "_seconds", "ends")

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = float(seconds)
        self._most = most
        #: When this window does; right after ``used``.
        self.ends = -math.inf
        self._current: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._crowd: list[int] | None = None
        self._before_crowd: list[int] | None = None

    def __len__(self) -> int:
        """Callers that are counted apart."""
        return len(self._current) + len(self._before)

    @property
    def crowded(self) -> bool:
        """Whether some callers share counters."""
        return self._crowd is not None

    def used(self, subject: str, now: float) -> float:
        """What counts at ``now`` of the use by ``subject``."""
        if now >= self.ends:
            self._turn(now)
        used: float | None = self._current.get(subject)
        if used is None:
            # Who has a place and has not taken it has used nothing.
            used = 0 if self._crowd is None or self._has_place(subject) else self._crowd[hash(subject) & CROWD - 1]
        before = self._before.get(subject)
        if before is None:
            if self._before_crowd is None:
                return used
            before = self._before_crowd[hash(subject) & CROWD - 1]
        return used + before * (self.ends - now) / self._seconds

    def take(self, subject: str, now: float, room: int) -> bool:
        """Use one, unless that makes ``room`` or more. As ``used`` and ``add``, in one step where nobody shares a
        counter."""
        if now >= self.ends:
            self._turn(now)
        used = self._current.get(subject)
        if used is None or self._before_crowd is not None:
            if self.used(subject, now) + 1 >= room:
                return False
            self.add(subject, 1)
            return True
        before = self._before.get(subject)
        if used + 1 + (before * (self.ends - now) / self._seconds if before else 0) >= room:
            return False
        self._current[subject] = used + 1
        return True

    def add(self, subject: str, cost: int) -> None:
        """Use so much, right after ``used``."""
        current = self._current
        if subject in current:
            current[subject] += cost
        elif self._has_place(subject):
            current[subject] = cost
        else:
            if self._crowd is None:
                self._crowd = [0] * CROWD
            self._crowd[hash(subject) & CROWD - 1] += cost

    def use(self, subject: str, now: float) -> Use:
        """The same as ``used``, in its parts."""
        used = self.used(subject, now)
        place = hash(subject) & CROWD - 1
        before = self._before.get(subject, self._before_crowd[place] if self._before_crowd is not None else 0)
        left = self.ends - now
        return Use(before, round(used - before * left / self._seconds), left)

    def _has_place(self, subject: str) -> bool:
        taken = len(self._current)
        return taken < self._most or (taken < 2 * self._most and subject in self._before)

    def _turn(self, now: float) -> None:
        """Begin the window that ``now`` is in."""
        behind = now < self.ends + self._seconds
        self._before, self._before_crowd = (self._current, self._crowd) if behind else ({}, None)
        self._current, self._crowd = {}, None
        start = self.ends if behind else now
        self.ends = start + self._seconds
