"""Estimates that carry their uncertainty: a value, a one-sided test against any bound, and the interval that the tests
make.

``z(bound)`` is approximately standard normal if the true value is ``bound``, and grows with the estimate. From it
follow both answers of ``keelway.checks``: the interval at ``alpha`` holds the bounds that neither one-sided test at
``alpha`` rejects, so that its confidence level is 1 − 2·alpha and each side is wrong with probability ``alpha``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NORMAL = NormalDist()
#: Halvings of a search for the end of an interval: the last digit of a float64 is reached before.
_HALVINGS = 80


class Estimated(Protocol):
    """What a check decides on."""

    @property
    def value(self) -> float: ...

    def z(self, bound: float) -> float:
        """Approximately standard normal at the true value; infinite where chance has no part in it."""
        ...

    def interval(self, alpha: float) -> tuple[float, float]:
        """Both ends, each wrong with probability ``alpha``."""
        ...


def p_value(z: float) -> float:
    """The probability of a standard normal value below ``z``: the p-value of "at least the bound" from its ``z``."""
    return 0.5 * math.erfc(-z / math.sqrt(2)) if math.isfinite(z) else float(z > 0)


def critical(alpha: float) -> float:
    """The value that a standard normal one exceeds with probability ``alpha``."""
    return _NORMAL.inv_cdf(1 - alpha)


@dataclass(frozen=True, slots=True)
class Normal:
    """An estimate with a standard error. ``centre`` is where the interval is centred if not at ``value``: methods that
    add pseudo-observations shrink it a little."""

    value: float
    error: float
    centre: float | None = None

    def z(self, bound: float) -> float:
        distance = (self.value if self.centre is None else self.centre) - bound
        if self.error > 0:
            return distance / self.error
        return math.copysign(math.inf, distance) if distance else 0.0

    def interval(self, alpha: float) -> tuple[float, float]:
        centre = self.value if self.centre is None else self.centre
        half = critical(alpha) * self.error
        return centre - half, centre + half


@dataclass(frozen=True, slots=True)
class Share:
    """A share of independent rows: ``count`` of ``rows``. The score test, and E. B. Wilson's interval that it makes
    ("Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209-212)."""

    count: int
    rows: int

    @property
    def value(self) -> float:
        return self.count / self.rows

    def z(self, bound: float) -> float:
        error = math.sqrt(max(bound * (1 - bound), 0.0) / self.rows)
        return Normal(self.value, error).z(bound)

    def interval(self, alpha: float) -> tuple[float, float]:
        z, n, share = critical(alpha), self.rows, self.value
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, centre - half), min(1.0, centre + half)


class Ratio:
    """The mean of ``above`` by that of ``below``, (rows,) each, of independent rows; a plain mean if ``below`` is 1.

    Whether it is ``r`` is whether above − r·below has mean 0 (E. C. Fieller, "Some problems in interval estimation",
    JRSS B 16 (1954), 175-185), and that is tested by the t statistic, freed of its skewness by P. Hall's cubic ("On the
    removal of skewness by transformation", JRSS B 54 (1992), 221-228): losses are skewed, and a plain t-test of them is
    wrong too often on one side. ``below`` must have a positive mean.
    """

    __slots__ = ("_above", "_below", "value")

    def __init__(self, above: Floats, below: Floats | float = 1.0) -> None:
        self._above = np.asarray(above, dtype=np.float64)
        self._below = np.broadcast_to(np.asarray(below, dtype=np.float64), self._above.shape)
        self.value = float(self._above.mean() / self._below.mean())

    def z(self, bound: float) -> float:
        rows = self._above - bound * self._below
        mean, count = float(rows.mean()), len(rows)
        centred = rows - mean
        spread = math.sqrt(float((centred**2).mean()))
        # Rows that are all equal but for rounding have no spread: what they say is certain.
        if spread <= 1e-12 * float(np.abs(rows).max(initial=0.0)) or count < 2:
            return math.copysign(math.inf, mean) if mean else 0.0
        t = math.sqrt(count - 1) * mean / spread
        skewness = float((centred**3).mean()) / spread**3
        a = skewness / (3 * math.sqrt(count))
        return t + a * t * t + a * a * t**3 / 3 + skewness / (6 * math.sqrt(count))

    def interval(self, alpha: float) -> tuple[float, float]:
        z = critical(alpha)
        scale = float(self._above.std() / abs(self._below.mean())) + abs(self.value) + 1e-12
        low = _crossing(lambda bound: self.z(bound) - z, self.value, -scale)
        high = _crossing(lambda bound: self.z(bound) + z, self.value, scale)
        return low, high


def _crossing(distance: Callable[[float], float], start: float, step: float) -> float:
    """Where ``distance`` changes its sign between ``start`` and wherever ``step``, doubled, leads; else infinite."""
    inside, sign = start, distance(start) > 0
    for _ in range(40):
        outside = inside + step
        if (distance(outside) > 0) != sign:
            break
        inside, step = outside, 2 * step
    else:
        return math.copysign(math.inf, step)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if (distance(middle) > 0) == sign else (inside, middle)
    return (inside + outside) / 2
