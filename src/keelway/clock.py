"""The only place that reads the time. Everything else is handed a ``Clock``, so tests can move it by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back. For durations and deadlines."""
        ...

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC. For timestamps people read."""
        ...


class SystemClock:
    """The machine's clock. The methods are the standard library's own functions: the hot path pays for no wrapper."""

    monotonic = staticmethod(time.perf_counter)
    now = staticmethod(time.time)


def rfc3339(seconds: float) -> str:
    """``seconds`` since the Unix epoch as RFC 3339 in UTC with microseconds, e.g. ``2026-01-31T12:00:00.000000Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
