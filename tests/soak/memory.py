"""Whether the memory of a process is flat: samples of each second in, a verdict out. Pure but for ``Scales``.

After the first third of its life a process may not have grown by more than ``MOST_SHARE`` or ``MOST_MIB``, whichever is
more, to the end: neither by its least-squares slope, nor by what it held then and holds at last. The slope is one of
means over blocks of several seconds, because samples of neighbouring seconds are not independent of each other.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import psutil

MOST_MIB, MOST_SHARE = 8.0, 0.03
#: Seconds of life below which nothing is said: a process still fills what it keeps.
LEAST_LIFE = 90.0
_WARM_UP = 1 / 3
_BLOCKS = 12
CRITERION = (
    f"growth over the last two thirds of a life of at least {LEAST_LIFE:g} s, by slope and from start to end, is below "
    f"{MOST_MIB:g} MiB or {MOST_SHARE:.0%}, whichever is more"
)


class Sample(NamedTuple):
    """``time`` in seconds; ``resident`` and ``proportional`` in MiB. Resident is what is judged: a process's share of
    pages it has in common with others changes when one of those ends."""

    time: float
    resident: float
    proportional: float


@dataclass(frozen=True)
class Flatness:
    """Of resident memory, in MiB. ``slope`` is MiB a minute with its 95 % interval, ``by_slope`` the growth that it
    makes over the time judged, ``by_ends`` the one between the first and the last tenth of that time, ``since_minute``
    the one from the second minute to the last tenth (``None`` for a shorter life). ``verdict``: ``flat``, ``growing``,
    or ``inconclusive`` where the interval reaches beyond the limit; ``short`` if too short a life."""

    verdict: str
    life: float
    start: float
    end: float
    slope: float = 0.0
    low: float = 0.0
    high: float = 0.0
    by_slope: float = 0.0
    by_ends: float = 0.0
    since_minute: float | None = None
    limit: float = 0.0


def flatness(samples: Sequence[Sample], least_life: float = LEAST_LIFE) -> Flatness:
    """``samples`` in order of time, of one process. ``ValueError`` without any."""
    if not samples:
        raise ValueError("no samples")
    born, life = samples[0].time, samples[-1].time - samples[0].time
    first, last = samples[0].resident, samples[-1].resident
    judged = [sample for sample in samples if sample.time - born >= life * _WARM_UP]
    if life < least_life or len(judged) < 3 * _BLOCKS:
        return Flatness("short", life, first, last)
    slope, low, high = _slope(judged)
    span = judged[-1].time - judged[0].time
    tenth = max(1, len(judged) // 10)
    early, late = (_median(part) for part in (judged[:tenth], judged[-tenth:]))
    limit = max(MOST_MIB, MOST_SHARE * early)
    minute = [sample for sample in samples if 60 <= sample.time - born < 120]
    since = late - _median(minute) if minute and life > 180 else None
    by_slope, by_ends = slope * span, late - early
    if low * span > limit or by_slope > limit or by_ends > limit:
        verdict = "growing"
    else:
        verdict = "flat" if high * span <= limit else "inconclusive"
    return Flatness(
        verdict, life, first, last, slope * 60, low * 60, high * 60, by_slope, by_ends, since, limit
    )  # fmt: skip


def _median(samples: Sequence[Sample]) -> float:
    return statistics.median(sample.resident for sample in samples)


def _slope(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """MiB a second and its 95 % interval, from the means of ``_BLOCKS`` blocks."""
    from scipy import stats

    blocks = np.array_split(np.array([(sample.time, sample.resident) for sample in samples]), _BLOCKS)
    times, sizes = np.array([block.mean(axis=0) for block in blocks]).T
    fitted = stats.linregress(times, sizes)
    half = float(stats.t.ppf(0.975, _BLOCKS - 2) * fitted.stderr)
    return float(fitted.slope), float(fitted.slope) - half, float(fitted.slope) + half


@dataclass
class Scales:
    """Weighs processes that come and go. ``found`` says which there are now, by role."""

    found: Callable[[], Mapping[str, Sequence[psutil.Process]]]
    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)

    def weigh(self, now: float) -> None:
        for role, processes in self.found().items():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    memory = process.memory_full_info()
                    if memory.rss:  # it has not just ended
                        sample = Sample(now, memory.rss / 2**20, memory.pss / 2**20)
                        self.samples.setdefault((role, process.pid), []).append(sample)

    def lives(self) -> list[dict[str, Any]]:
        """Every process that was weighed: ``role``, ``pid``, ``proportional`` at its end, and its ``Flatness``."""
        return [
            {"role": role, "pid": pid, "proportional": samples[-1].proportional, "flatness": flatness(samples)}
            for (role, pid), samples in self.samples.items()
        ]
