"""Shrunk covariances: those of scikit-learn, which nobody here wrote. # X1"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf

from keelway.statistics.covariance import ledoit_wolf, whitening


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 200), st.integers(1, 20), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e4]))
def test_it_is_scikit_learns(rows: int, width: int, seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    sample = random.standard_t(3, (rows, width)) @ random.normal(size=(width, width)) * scale + 7
    covariance, shrinkage = ledoit_wolf(sample)
    known = LedoitWolf().fit(sample)
    assert np.allclose(covariance, known.covariance_, rtol=1e-9, atol=1e-12 * scale**2)
    assert 0 <= shrinkage <= 1
    if width > 1:  # of one column any share is the same
        assert shrinkage == pytest.approx(known.shrinkage_, abs=1e-9)


def test_a_whitened_difference_is_as_long_as_the_mahalanobis_distance() -> None:
    random = np.random.default_rng(1)
    sample = random.normal(size=(500, 6)) @ random.normal(size=(6, 6))
    known = LedoitWolf().fit(sample)
    covariance, _ = ledoit_wolf(sample)
    lengths = ((sample - sample.mean(axis=0)) @ whitening(covariance).T) ** 2
    assert np.allclose(lengths.sum(axis=1), known.mahalanobis(sample))


def test_fewer_rows_than_columns_still_make_a_covariance_that_can_be_inverted() -> None:
    covariance, shrinkage = ledoit_wolf(np.random.default_rng(2).normal(size=(5, 40)))
    assert shrinkage > 0
    assert np.isfinite(whitening(covariance)).all()
