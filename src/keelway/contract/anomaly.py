"""What rows of the sample look like together: a detector, stored beside the baseline and, like it, observed.

``fit`` makes one when a version is pushed; the request line compiles it (``guard/anomaly.py``). It holds the largest
scores of the rows that were held out, not a threshold, so that the false-positive rate may be declared, and changed,
later. It knows a row that is unlike the sample; against somebody who knows the detector it is no defence.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from keelway.statistics.covariance import ledoit_wolf, whitening
from keelway.statistics.held_out import Thresholds, tail, thresholds
from keelway.statistics.robust import centre_and_scale

Floats = npt.NDArray[np.float64]
DetectorName = Literal["robust_z", "mahalanobis"]

#: Rows that have to be held out: with fewer, more than one good row in fifty would be tagged.
MIN_HELD_OUT: Final = 99
#: The largest false-positive rate that can be declared: so large a share of the scores is kept.
MAX_RATE: Final = 0.05
#: Beyond these a row would take too long.
MAX_FEATURES: Final = 256

_HUGE, _TINY = 1e15, 1e-15
_SEED: Final = 20_040_101


class Detector(msgspec.Struct, frozen=True, omit_defaults=True):
    """``features`` are the numeric ones that take more than two values, in the signature's order; the other sequences
    follow it. ``median`` and ``scale`` are those of ``statistics/robust.py``, ``mean`` is of the ``fitted`` rows.

    ``whitening`` is a matrix W of little-endian float64, row by row: |W (x - mean)| is the Mahalanobis distance, with
    0 in place of the difference of a missing value. Empty where there is one feature, or too many. ``tail`` are the
    scores, in the order of ``names``, of those of the ``held_out`` rows that have the largest.
    """

    features: tuple[str, ...]
    fitted: int
    held_out: int
    median: tuple[float, ...]
    scale: tuple[float, ...]
    mean: tuple[float, ...]
    tail: tuple[tuple[float, ...], ...]
    whitening: bytes = b""

    @property
    def names(self) -> tuple[DetectorName, ...]:
        """What the scores of a row are called."""
        return ("robust_z", "mahalanobis") if self.whitening else ("robust_z",)

    @property
    def matrix(self) -> Floats | None:
        """``whitening`` of shape (features, features)."""
        if not self.whitening:
            return None
        width = len(self.features)
        matrix: Floats = np.frombuffer(self.whitening, "<f8").reshape(width, width)
        return matrix

    def thresholds(self, rate: float) -> Thresholds:
        """One for each of ``names``, so that ``rate`` of good rows is tagged, or the least that the held-out rows
        support."""
        return thresholds(np.array(self.tail), self.held_out, rate)

    def scores(self, rows: Floats) -> Floats:
        """How unusual each of ``rows``, (rows, features), is: (rows, names)."""
        return scores(rows, np.array(self.median), np.array(self.scale), np.array(self.mean), self.matrix)


def fit(rows: Floats, features: tuple[str, ...]) -> Detector | None:
    """A detector from ``rows``, (rows, features), NaN where a value is missing, infinite counting as missing.

    A random half is held out for the thresholds. ``None`` if there are too few rows, or no feature is fit for it:
    constants and what takes two values, such as one-hot columns, say nothing that a category would not.
    """
    rows = np.where(np.isfinite(rows), rows, np.nan)
    order = np.random.default_rng(_SEED).permutation(len(rows))
    half = len(rows) // 2
    if half < MIN_HELD_OUT:
        return None
    seen, held_out = rows[order[half:]], rows[order[:half]]
    chosen = [position for position in range(rows.shape[1]) if _is_continuous(seen[:, position])]
    if not chosen:
        return None
    seen, held_out = seen[:, chosen], held_out[:, chosen]
    median, scale = centre_and_scale(seen)
    mean = np.nanmean(seen, axis=0)
    matrix = _matrix(seen, mean) if 1 < len(chosen) <= MAX_FEATURES else None
    most = int(MAX_RATE * (half + 1)) + 2
    largest = tail(scores(held_out, median, scale, mean, matrix), most)
    return Detector(
        tuple(features[position] for position in chosen),
        len(seen),
        half,
        tuple(median.tolist()),
        tuple(scale.tolist()),
        tuple(mean.tolist()),
        tuple(map(tuple, largest.tolist())),
        b"" if matrix is None else matrix.astype("<f8").tobytes(),
    )


def scores(rows: Floats, median: Floats, scale: Floats, mean: Floats, matrix: Floats | None) -> Floats:
    """The largest distance of each row from a median in robust deviations and, with a ``matrix``, its Mahalanobis
    distance: (rows, 1 or 2). A missing value is as usual as can be."""
    z: Floats = np.nan_to_num(np.abs(rows - median) / scale).max(axis=1)
    if matrix is None:
        return z[:, None]
    whitened: Floats = np.nan_to_num(rows - mean) @ matrix.T
    both: Floats = np.stack([z, np.linalg.norm(whitened, axis=1)], axis=1)
    return both


def _is_continuous(column: Floats) -> bool:
    """Whether it takes more than two values, of a size and at distances that can be squared in float32."""
    distinct = np.unique(column[~np.isnan(column)])
    return len(distinct) > 2 and float(np.abs(distinct).max()) < _HUGE and distinct[-1] - distinct[0] > _TINY


def _matrix(seen: Floats, mean: Floats) -> Floats | None:
    """Of columns brought to one scale first, because what shrinkage shrinks towards depends on it."""
    centred = np.nan_to_num(seen - mean)
    deviation = centred.std(axis=0)
    covariance, _ = ledoit_wolf(centred / deviation)
    try:
        return np.ascontiguousarray(whitening(covariance) / deviation)
    except np.linalg.LinAlgError:  # values beyond what float64 can square
        return None
