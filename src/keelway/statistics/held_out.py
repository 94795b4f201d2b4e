"""Thresholds from rows that were held out, so that a declared share of false alarms is kept whatever the distribution.

Split conformal prediction: S. Bates and others, "Testing for outliers with conformal p-values", Annals of Statistics 51
(2023). If a new row and ``count`` held-out ones come from one distribution, then leaving out each in turn says how
often the new one is above the r-th largest score of the others: as often as one of all is among the r largest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Thresholds(NamedTuple):
    """A row with a score above its entry of ``values`` is an alarm; ``rate`` is the share of false ones."""

    values: tuple[float, ...]
    rate: float


def thresholds(scores: npt.NDArray[np.float64], count: int, rate: float) -> Thresholds:
    """For several scores at once, (rows, scores), each given the same number of alarms: together they alarm on ``rate``
    of good rows, or on the smallest share that ``count`` held-out rows support if that is larger.

    ``scores`` are of the held-out rows that are among the largest in any score, of more of them than ``rate`` of all:
    others have no say."""
    falling = np.sort(scores, axis=0)[::-1]
    # The best rank of each row in any score, from 1. Equal scores share the worst one: none of them is above another.
    ranks = np.stack(
        [np.searchsorted(-falling[:, k], -scores[:, k], side="right") for k in range(scores.shape[1])], axis=1
    )
    best = np.sort(ranks.min(axis=1))
    allowed = int(rate * (count + 1) + 1e-9)
    # The most alarms for each score with which together there are no more than allowed.
    rank = 1
    while rank < len(best) and np.searchsorted(best, rank + 1, side="right") <= allowed:
        rank += 1
    # Of all rows and a new one, one at least may be above all others.
    alarms = max(1, int(np.searchsorted(best, rank, side="right")))
    return Thresholds(tuple(falling[rank - 1].tolist()), alarms / (count + 1))


def tail(scores: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64]:
    """The rows of ``scores``, (rows, scores), that are among the ``most`` largest in any score."""
    keep: set[int] = set()
    for column in range(scores.shape[1]):
        keep.update(np.argsort(-scores[:, column], kind="stable")[:most].tolist())
    return scores[sorted(keep)]
