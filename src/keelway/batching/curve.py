"""Time against batch size, and whether sharing runs is worth it. Pure: ``keelway.hosting`` has measured the times."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

#: A doubling that brings less than this is the end: larger runs would only make everybody wait longer.
_WORTH_DOUBLING = 1.03
#: Rows a second of the best size, as a multiple of those of one row, from which on runs are shared.
_WORTH_SHARING = 1.15
#: The share of the best throughput that is as good as the best.
_AS_GOOD = 0.97


class Curve(msgspec.Struct, frozen=True):
    """``points`` are (rows, seconds) of one run, at least one of them, both increasing: see ``curve_of``."""

    points: tuple[tuple[int, float], ...]

    def seconds(self, rows: int) -> float:
        """Of a run of ``rows`` rows: on the line between the measured sizes, and along the last of them beyond."""
        points = self.points
        if len(points) == 1:
            size, seconds = points[0]
            return seconds * max(1.0, rows / size)
        place = min(max(bisect_left(points, (rows, 0.0)), 1), len(points) - 1)
        (low, from_), (high, to) = points[place - 1], points[place]
        return from_ + (to - from_) / (high - low) * (rows - low)

    def rows_within(self, seconds: float, most: int) -> int:
        """The most rows, up to ``most``, whose run takes no longer than ``seconds``; 0 if not even one does."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.seconds(middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def rate(self, rows: int) -> float:
        """Rows a second in runs of ``rows``."""
        return rows / max(self.seconds(rows), 1e-9)


def curve_of(points: Sequence[tuple[int, float]]) -> Curve:
    """The curve of measured (rows, seconds), rows increasing. A larger run never counts as the shorter one: that was
    the machine, not the model."""
    made: list[tuple[int, float]] = []
    for rows, seconds in points:
        made.append((rows, max(seconds, made[-1][1] if made else 0.0)))
    return Curve(tuple(made))


class Choice(msgspec.Struct, frozen=True):
    """How the requests of a version meet. ``policy`` is ``turn`` (those read in one turn of the event loop share a run
    there), ``slots`` (a free worker thread takes what is waiting) or ``none`` (every request is a run of its own);
    ``why`` says so in words for people. ``slots`` is the number of worker threads, 0 on the event loop."""

    policy: str
    max_batch_size: int
    why: str
    slots: int = 0
    curve: Curve | None = None


def sizes(most: int) -> Sequence[int]:
    """The batch sizes to measure: powers of two up to ``most``, and ``most``."""
    powers = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    return powers if powers[-1] == most else [*powers, most]


def worth_doubling(curve: Curve) -> bool:
    """Whether the last measured size has brought enough over the one before it to try a larger one."""
    if len(curve.points) < 2:
        return True
    (before, _), (last, _) = curve.points[-2:]
    return curve.rate(last) >= curve.rate(before) * _WORTH_DOUBLING


def best_size(curve: Curve, least_saved: float) -> int:
    """The smallest measured size whose throughput is as good as the best. 1 if sharing brings less than a sixth, or
    saves less than ``least_saved`` seconds a row."""
    best = max(curve.rate(rows) for rows, _ in curve.points)
    size = next(rows for rows, _ in curve.points if curve.rate(rows) >= best * _AS_GOOD)
    saved = curve.seconds(1) - curve.seconds(size) / size
    return size if best >= curve.rate(1) * _WORTH_SHARING and saved >= least_saved else 1


def gain_in_words(curve: Curve, size: int) -> str:
    """``64 rows take 4.1 ms, one takes 2.2 ms: 34 times the rows a second``."""
    times = curve.rate(size) / curve.rate(1)
    return f"{size} rows take {_time(curve.seconds(size))}, one takes {_time(curve.seconds(1))}: {times:.3g} x the rows"


def in_words(choice: Mapping[str, Any]) -> str:
    """A choice, as ``msgspec.to_builtins`` writes it, in one line."""
    match choice["policy"]:
        case "turn":
            said = f"requests of one turn of the event loop share a run of at most {choice['max_batch_size']} rows"
        case "slots":
            said = f"waiting requests share a run of at most {choice['max_batch_size']} rows"
        case _:
            said = "every request is a run of its own"
    return f"{said} ({choice['why']})"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds >= 0.001 else f"{seconds * 1e6:.3g} µs"
