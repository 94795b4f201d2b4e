"""Answers in this process: the least recently used go first, once they take more than so many bytes. No locks; one
event loop."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from keelway.cache.entries import Entry
from keelway.clock import Clock


class Kept(NamedTuple):
    """``expires`` is on the monotonic clock, in seconds."""

    entry: Entry
    expires: float


class MemoryStore:
    """At most ``max_bytes`` of entries, none larger than ``max_value_bytes``. ``evicted`` is told why an entry went:
    ``size`` or ``expired``. An entry that nobody asks for any more stays until its room is needed."""

    def __init__(
        self, max_bytes: int, max_value_bytes: int, clock: Clock, evicted: Callable[[str], None] = lambda reason: None
    ) -> None:
        self._max_bytes = max_bytes
        self._max_value_bytes = min(max_value_bytes, max_bytes)
        self._clock = clock
        self._evicted = evicted
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Kept | None:
        """What is kept under ``key`` and has not expired; it is now the most recently used."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.expires <= self._clock.monotonic():
            self._drop(key, "expired")
            return None
        self._kept.move_to_end(key)
        return kept

    def put(self, key: bytes, entry: Entry, ttl: float) -> bool:
        """Keep ``entry`` for ``ttl`` seconds, in place of what was there. False, and nothing is kept, if it is too
        large."""
        if key in self._kept:
            self.size -= self._kept.pop(key).entry.size
        if entry.size > self._max_value_bytes or ttl <= 0:
            return False
        self._kept[key] = Kept(entry, self._clock.monotonic() + ttl)
        self.size += entry.size
        while self.size > self._max_bytes:
            oldest = next(iter(self._kept))
            self._drop(oldest, "expired" if self._kept[oldest].expires <= self._clock.monotonic() else "size")
        return True

    def _drop(self, key: bytes, reason: str) -> None:
        self.size -= self._kept.pop(key).entry.size
        self._evicted(reason)


def jittered(ttl: float, jitter: float, chance: float) -> float:
    """``ttl`` less up to the share ``jitter`` of it, so that what was answered together does not expire together.
    ``chance`` is uniform in [0, 1)."""
    return ttl * (1.0 - jitter * chance)


def refresh_is_due(remaining: float, cost: float, beta: float, chance: float) -> bool:
    """Whether this reader makes the answer anew before it expires, ``remaining`` seconds from now.

    The rule is XFetch: Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", PVLDB 8
    (8), 2015. An answer that took ``cost`` seconds is renewed early by ``-cost * beta * ln(chance)``, on average
    ``cost * beta``: the dearer it is and the more often it is asked for, the surer somebody has renewed it before all
    miss it. ``chance`` is uniform in [0, 1); ``beta`` 0 renews nothing early."""
    return beta > 0 and -cost * beta * math.log(max(chance, 1e-300)) >= remaining
