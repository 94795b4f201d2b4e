"""What rows of the sample look like together: a detector, stored beside the baseline and, like it, observed.

``fit`` makes one when a version is pushed; the request line compiles it (``guard/anomaly.py``). It holds the largest
scores of the rows that were held out, not a threshold, so that the false-positive rate may be declared, and changed,
later. It knows a row that is unlike the sample; against somebody who knows the detector it is no defence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from keelway.statistics.held_out import Thresholds, tail, thresholds
from keelway.statistics.mahalanobis import Ellipsoids, Integers, best, of_all
from keelway.statistics.robust import centre_and_scale
from keelway.types import Array

Floats = npt.NDArray[np.float64]
DetectorName = Literal["robust_z", "mahalanobis", "isolation_forest"]
#: How soon each of the rows, (rows, features) in the detector's order and without missing values, is alone in the trees
#: of an isolation forest: (rows,), from 0 to 1, larger is stranger.
Isolation = Callable[[Array], Floats]
#: Trains one on the first rows; the digest of what it is stored as, and the scores of the second.
Grow = Callable[[Floats, Floats], tuple[str, Floats]]

#: Rows that have to be held out: with fewer, more than one good row in fifty would be tagged.
MIN_HELD_OUT: Final = 99
#: The largest false-positive rate that can be declared: so large a share of the scores is kept.
MAX_RATE: Final = 0.05
#: Beyond these a row would take too long.
MAX_FEATURES: Final = 256
#: Classes that are told apart: with more, or if their matrices are larger than that of ``MAX_FEATURES``, none are.
MAX_CLASSES: Final = 16

_HUGE, _TINY = 1e15, 1e-15
_SEED: Final = 20_040_101


class Detector(msgspec.Struct, frozen=True, omit_defaults=True):
    """``features`` are the numeric ones that take more than two values, in the signature's order; the other sequences
    follow it. ``median`` and ``scale`` are those of ``statistics/robust.py``, ``mean`` is of the ``fitted`` rows.

    ``whitening`` is a matrix W of little-endian float64, row by row: |W (x - mean)| is the Mahalanobis distance, with
    0 in place of the difference of a missing value. Empty where there is one feature, or too many. Where classes are
    told apart there is one matrix for each, one after another; ``centres`` and ``volumes`` are theirs, as in
    ``statistics/mahalanobis.py``. ``tail`` are the scores, in the order of ``names``, of those of the ``held_out`` rows
    that have the largest. ``forest`` is the digest of the blob that holds an isolation forest, empty without one.
    """

    features: tuple[str, ...]
    fitted: int
    held_out: int
    median: tuple[float, ...]
    scale: tuple[float, ...]
    mean: tuple[float, ...]
    tail: tuple[tuple[float, ...], ...]
    whitening: bytes = b""
    centres: tuple[tuple[float, ...], ...] = ()
    volumes: tuple[float, ...] = ()
    forest: str = ""

    @property
    def blobs(self) -> tuple[str, ...]:
        """The digests of what is stored for it beside the registry."""
        return (self.forest,) if self.forest else ()

    @property
    def names(self) -> tuple[DetectorName, ...]:
        """What the scores of a row are called."""
        here: tuple[tuple[DetectorName, object], ...] = (
            ("robust_z", True),
            ("mahalanobis", self.whitening),
            ("isolation_forest", self.forest),
        )
        return tuple(name for name, there in here if there)

    @property
    def ellipsoids(self) -> Ellipsoids | None:
        """What the Mahalanobis distance is measured from: one, or one for each class."""
        if not self.whitening:
            return None
        centres = np.array(self.centres or (self.mean,))
        matrices = np.frombuffer(self.whitening, "<f8").reshape(len(centres), *[len(self.features)] * 2)
        return Ellipsoids(centres, matrices, np.array(self.volumes or (0.0,)))

    def thresholds(self, rate: float) -> Thresholds:
        """One for each of ``names``, so that ``rate`` of good rows is tagged, or the least that the held-out rows
        support."""
        return thresholds(np.array(self.tail), self.held_out, rate)

    def scores(self, rows: Floats, isolation: Isolation | None = None) -> Floats:
        """How unusual each of ``rows``, (rows, features), is: (rows, names). ``isolation`` is what ``forest`` names."""
        median = np.array(self.median)
        alone = isolation(filled(rows, median)) if isolation is not None else None
        return scores(rows, median, np.array(self.scale), self.ellipsoids, alone)


def fit(
    rows: Floats, features: tuple[str, ...], classes: Integers | None = None, grow: Grow | None = None
) -> Detector | None:
    """A detector from ``rows``, (rows, features), NaN where a value is missing, infinite counting as missing.

    A random half is held out for the thresholds. ``classes`` are numbers from 0, (rows,), negative where unknown; they
    are told apart where there are few, and where the other half says that this finds more. ``grow`` adds an isolation
    forest, for which a missing value is the median. ``None`` if there are too few rows, or no feature is fit for it:
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
    ellipsoids = _ellipsoids(seen, None if classes is None else classes[order[half:]])
    several = ellipsoids is not None and len(ellipsoids.centres) > 1
    forest, alone = ("", None) if grow is None else grow(filled(seen, median), filled(held_out, median))
    most = int(MAX_RATE * (half + 1)) + 2
    largest = tail(scores(held_out, median, scale, ellipsoids, alone), most)
    return Detector(
        tuple(features[position] for position in chosen),
        len(seen),
        half,
        tuple(median.tolist()),
        tuple(scale.tolist()),
        tuple(np.nanmean(seen, axis=0).tolist()),
        tuple(map(tuple, largest.tolist())),
        b"" if ellipsoids is None else ellipsoids.matrices.astype("<f8").tobytes(),
        tuple(map(tuple, ellipsoids.centres.tolist())) if ellipsoids and several else (),
        tuple(ellipsoids.volumes.tolist()) if ellipsoids and several else (),
        forest,
    )


def scores(
    rows: Floats, median: Floats, scale: Floats, ellipsoids: Ellipsoids | None, alone: Floats | None = None
) -> Floats:
    """The largest distance of each row from a median in robust deviations, with ``ellipsoids`` its Mahalanobis
    distance, and ``alone``, scores of an isolation forest: (rows, 1 to 3). A missing value is as usual as can be."""
    found: list[Floats] = [np.nan_to_num(np.abs(rows - median) / scale).max(axis=1)]
    if ellipsoids is not None:
        found.append(ellipsoids.distances(rows))
    if alone is not None:
        found.append(alone)
    return np.stack(found, axis=1)


def filled(rows: Array, median: Array) -> Array:
    """``rows`` with the median of the feature in place of each missing value."""
    return np.where(np.isnan(rows), median, rows)


def _is_continuous(column: Floats) -> bool:
    """Whether it takes more than two values, of a size and at distances that can be squared in float32."""
    distinct = np.unique(column[~np.isnan(column)])
    return len(distinct) > 2 and float(np.abs(distinct).max()) < _HUGE and distinct[-1] - distinct[0] > _TINY


def _ellipsoids(seen: Floats, classes: Integers | None) -> Ellipsoids | None:
    width = seen.shape[1]
    if not 1 < width <= MAX_FEATURES:
        return None
    count = 0 if classes is None else len(np.unique(classes[classes >= 0]))
    few = 1 < count <= MAX_CLASSES and count * width**2 <= MAX_FEATURES**2
    try:
        return best(seen, classes) if classes is not None and few else of_all(seen)
    except np.linalg.LinAlgError:  # values beyond what float64 can square
        return None
