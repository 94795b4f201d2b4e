"""How well scores rank: the area under the ROC curve of one score, and of two scores of the same rows.

E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the areas under two or more correlated receiver
operating characteristic curves", Biometrics 44 (1988), 837-845, by midranks as X. Sun and W. Xu have it ("Fast
implementation of DeLong's algorithm", IEEE Signal Processing Letters 21 (2014), 1389-1393): n·log n in the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keelway.statistics.estimates import Floats, Normal, critical

Bools = npt.NDArray[np.bool_]


def midranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[places]
    return ranks


def areas(truth: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """The areas under the ROC curves, (k,), of ``scores``, (k, rows), and their covariance, (k, k). ``truth``, (rows,),
    has at least two rows of either kind."""
    positives, negatives = scores[:, truth], scores[:, ~truth]
    m, n = positives.shape[1], negatives.shape[1]
    everything = np.hstack([positives, negatives])
    all_ranks = np.stack([midranks(row) for row in everything])
    # The share of negatives below each positive, and of positives above each negative: the placement values.
    below = (all_ranks[:, :m] - np.stack([midranks(row) for row in positives])) / n
    above = 1 - (all_ranks[:, m:] - np.stack([midranks(row) for row in negatives])) / m
    covariance = np.atleast_2d(np.cov(below)) / m + np.atleast_2d(np.cov(above)) / n
    return below.mean(axis=1), covariance


@dataclass(frozen=True, slots=True)
class Area:
    """One area. DeLong's variance on the scale of log-odds, which keeps the interval inside 0 and 1. Near the end of
    the scale, where the two kinds of rows do not overlap and DeLong's variance is 0, the area counts as half a row of
    the rarer kind from it, with J. A. Hanley's and B. J. McNeil's variance ("The meaning and use of the area under a
    receiver operating characteristic (ROC) curve", Radiology 143 (1982), 29-36)."""

    value: float
    variance: float
    positives: int
    negatives: int

    def z(self, bound: float) -> float:
        if not 0 < bound < 1:
            return math.copysign(math.inf, self.value - bound)
        value, error = self._on_log_odds()
        return Normal(value, error).z(math.log(bound / (1 - bound)))

    def interval(self, alpha: float) -> tuple[float, float]:
        value, error = self._on_log_odds()
        half = critical(alpha) * error
        return 1 / (1 + math.exp(half - value)), 1 / (1 + math.exp(-half - value))

    def _on_log_odds(self) -> tuple[float, float]:
        edge = 0.5 / min(self.positives, self.negatives)
        inside = min(max(self.value, edge), 1 - edge)
        smallest = _hanley_mcneil(inside, self.positives, self.negatives) if inside != self.value else 0.0
        return math.log(inside / (1 - inside)), math.sqrt(max(self.variance, smallest)) / (inside * (1 - inside))


def _hanley_mcneil(area: float, m: int, n: int) -> float:
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)


def area(truth: Bools, scores: Floats) -> Area:
    """The area of ``scores``, (rows,)."""
    found, covariance = areas(truth, scores[None, :])
    positives = int(truth.sum())
    return Area(float(found[0]), float(covariance[0, 0]), positives, len(truth) - positives)


def difference(truth: Bools, scores: Floats, others: Floats, weight: float = 1.0) -> Normal:
    """The area of ``scores`` less ``weight`` times that of ``others``, both (rows,) of the same rows."""
    found, covariance = areas(truth, np.stack([scores, others]))
    contrast = np.array([1.0, -weight])
    return Normal(float(contrast @ found), math.sqrt(max(float(contrast @ covariance @ contrast), 0.0)))
