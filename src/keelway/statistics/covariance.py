"""A covariance that can be inverted however few the rows: Ledoit and Wolf's shrinkage towards a multiple of the
identity, and the distance that it makes.

O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate
Analysis 88 (2004), 365-411; the names are those of its section 3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def ledoit_wolf(rows: Floats) -> tuple[Floats, float]:
    """The shrunk covariance, (columns, columns), of ``rows``, (rows, columns) of finite numbers, and by how much it was
    shrunk, 0 to 1. The mean is taken off first. It is not invariant to scale: bring columns to one scale before."""
    count, width = rows.shape
    centred = rows - rows.mean(axis=0)
    sample = centred.T @ centred / count
    mu = np.trace(sample) / width
    squares = float((sample**2).sum())
    # The distance of the sample covariance to the target, and how far chance alone would carry it: both times width.
    delta = squares - width * mu**2
    beta = (float(((centred**2).sum(axis=1) ** 2).mean()) - squares) / count
    shrinkage = min(max(beta, 0.0) / delta, 1.0) if delta > 0 else 1.0
    return (1 - shrinkage) * sample + shrinkage * mu * np.eye(width), shrinkage


def whitening(covariance: Floats) -> Floats:
    """The lower triangle ``W`` for which ``|W x|²`` is the squared Mahalanobis distance of ``x`` from 0.

    Raises ``numpy.linalg.LinAlgError`` for a covariance that is not positive definite."""
    inverse: Floats = np.linalg.inv(np.linalg.cholesky(covariance))
    return np.tril(inverse)
