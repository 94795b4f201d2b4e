"""Distances from one ellipsoid or from the nearest of several: those of scikit-learn and SciPy. # X1"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from keelway.statistics.mahalanobis import MIN_CLASS_ROWS, best, of_all, of_classes


def two_classes(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """In each class the columns follow each other, in opposite directions."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 2, rows)
    one = random.normal(size=(rows, 1))
    other = np.where(classes[:, None] > 0, one, -one) + 0.05 * random.normal(size=(rows, 3))
    return np.hstack([one, other]), classes


def test_one_ellipsoid_is_scikit_learns() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 4)) @ np.diag([1.0, 5.0, 0.1, 1.0])
    scale = rows.std(axis=0)
    known = LedoitWolf().fit(rows / scale)
    assert np.allclose(of_all(rows).distances(rows) ** 2, known.mahalanobis(rows / scale))


def test_the_distance_is_the_density_of_the_nearest_class() -> None:
    rows, classes = two_classes()
    found = of_classes(rows, classes)
    scale = rows.std(axis=0)
    densities = []
    for one in (0, 1):
        known = LedoitWolf().fit(rows[classes == one] / scale)
        densities.append(multivariate_normal(known.location_, known.covariance_).logpdf(rows / scale))
    differences = found.distances(rows) ** 2 + 2 * np.max(densities, axis=0)
    assert np.ptp(differences) < 1e-8, "twice the logarithm, but for a constant"


def test_a_missing_value_is_the_mean_of_each_class() -> None:
    rows, classes = two_classes()
    found = of_classes(rows + 3 * classes[:, None], classes)
    row = np.array([[0.5, np.nan, 0.5, 0.5]])
    filled = [np.where(np.isnan(row), centre, row) for centre in found.centres]
    each = [type(found)(*(part[k : k + 1] for part in found)).distances(filled[k])[0] for k in (0, 1)]
    assert found.distances(row)[0] == pytest.approx(min(each))


def test_the_largest_class_is_the_first_and_one_of_few_rows_has_a_shared_covariance() -> None:
    rows, _ = two_classes(300)
    classes = np.repeat([2, 0, 1, -1], [MIN_CLASS_ROWS - 1, 60, 200, 300 - 260 - MIN_CLASS_ROWS + 1])
    rows[:60, 1] = np.nan
    found = of_classes(rows, classes)
    assert len(found.centres) == 3
    assert np.allclose(found.centres[0], rows[classes == 1].mean(axis=0))
    assert np.isfinite(found.centres).all(), "a column that is missing in a class has the mean of all"
    one = of_classes(rows[classes >= 0], classes[classes >= 0])
    assert np.allclose(one.centres, found.centres, atol=0.2)
    assert found.volumes.min() == 0


def test_classes_are_told_apart_only_where_that_finds_more() -> None:
    rows, classes = two_classes()
    assert len(best(rows, classes).centres) == 2
    chance = np.random.default_rng(1).permutation(classes)
    assert len(best(rows, chance).centres) == 1


def test_a_column_that_is_constant_in_half_of_the_rows_breaks_nothing() -> None:
    rows, classes = two_classes()
    rows[:, 3] = 0
    rows[:2, 3] = 1, 2
    assert np.isfinite(best(rows, classes).distances(rows)).all()
    assert np.isfinite(of_all(rows[2:]).distances(rows)).all()
