"""How far a row is from the nearest of several ellipsoids: one for all rows of a sample, or one for each class.

The distance to the k-th is ``d² = (x - c)ᵀ S⁻¹ (x - c) + v``, with S shrunk (``covariance.py``) and v the logarithm of
its determinant above the least one of all classes. That is twice the negative logarithm of a normal density but for a
constant: without it a class that is spread widely would be near to everything. A row's distance is the least one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from keelway.statistics.covariance import ledoit_wolf, whitening

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: A class of fewer rows is given the covariance of rows about the means of their classes.
MIN_CLASS_ROWS: Final = 30
#: The share of good rows found wrongly at which one ellipsoid and several are compared.
_RATE: Final = 0.05
_SEED: Final = 20_180_523


class Ellipsoids(NamedTuple):
    """``centres`` (k, columns); ``matrices`` (k, columns, columns) whiten, see ``covariance.py``; ``volumes`` (k,)."""

    centres: Floats
    matrices: Floats
    volumes: Floats

    def distances(self, rows: Floats) -> Floats:
        """Of ``rows``, (rows, columns), from the nearest: (rows,). A missing value is as usual as can be."""
        squared = [
            (np.nan_to_num(rows - centre) @ matrix.T) ** 2 @ np.ones(rows.shape[1]) + volume
            for centre, matrix, volume in zip(self.centres, self.matrices, self.volumes, strict=True)
        ]
        distances: Floats = np.sqrt(np.min(squared, axis=0))
        return distances


def of_all(rows: Floats) -> Ellipsoids:
    """One around ``rows``, (rows, columns), NaN where a value is missing.

    Raises ``numpy.linalg.LinAlgError`` for values beyond what float64 can square."""
    mean = np.nanmean(rows, axis=0)
    centred = np.nan_to_num(rows - mean)
    deviation = centred.std(axis=0)
    return Ellipsoids(mean[None], _whitened(centred, deviation)[None], np.zeros(1))


def of_classes(rows: Floats, classes: Integers) -> Ellipsoids:
    """One around the rows of each of ``classes``, (rows,), the largest first; rows of a negative class have no say.

    Raises as ``of_all`` does."""
    mean = np.nanmean(rows, axis=0)
    deviation = np.nan_to_num(rows - mean).std(axis=0)
    found, counts = np.unique(classes[classes >= 0], return_counts=True)
    centres, centred = [], []
    for one in found[np.argsort(-counts, kind="stable")]:
        mine = rows[classes == one]
        centres.append(_mean(mine, mean))
        centred.append(np.nan_to_num(mine - centres[-1]))
    shared = _whitened(np.concatenate(centred), deviation)
    matrices = np.array([_whitened(one, deviation) if len(one) >= MIN_CLASS_ROWS else shared for one in centred])
    volumes = -2 * np.log(np.diagonal(matrices, axis1=1, axis2=2)).sum(axis=1)
    return Ellipsoids(np.array(centres), matrices, volumes - volumes.min())


def best(rows: Floats, classes: Integers) -> Ellipsoids:
    """Whichever of ``of_all`` and ``of_classes`` tells more rows whose columns were shuffled, each by itself, from the
    others. Each half of the rows is judged by what the other half has taught. In doubt it is one around all."""
    random = np.random.default_rng(_SEED)
    halves = np.array_split(random.permutation(len(rows)), 2)
    together = apart = 0.0
    for taught, judged in (halves, halves[::-1]):
        good = rows[judged]
        shuffled = random.permuted(good, axis=0)
        together += _caught(of_all(rows[taught]), good, shuffled)
        apart += _caught(of_classes(rows[taught], classes[taught]), good, shuffled)
    return of_classes(rows, classes) if apart > together else of_all(rows)


def _caught(ellipsoids: Ellipsoids, good: Floats, shuffled: Floats) -> float:
    limit = np.quantile(ellipsoids.distances(good), 1 - _RATE)
    return float((ellipsoids.distances(shuffled) > limit).mean())


def _mean(rows: Floats, otherwise: Floats) -> Floats:
    """Of each column, leaving out NaN, and ``otherwise`` of a column that has nothing else."""
    count = (~np.isnan(rows)).sum(axis=0)
    mean: Floats = np.where(count > 0, np.nansum(rows, axis=0) / np.maximum(count, 1), otherwise)
    return mean


def _whitened(centred: Floats, deviation: Floats) -> Floats:
    """Columns are brought to one scale first, because what shrinkage shrinks towards depends on it."""
    scale = np.where(deviation > 0, deviation, 1.0)  # in half of the rows a column may be constant
    covariance, _ = ledoit_wolf(centred / scale)
    return np.ascontiguousarray(whitening(covariance) / scale)
