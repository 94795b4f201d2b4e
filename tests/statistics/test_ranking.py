# Y1: areas under the ROC curve, alone and compared on the same rows
from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from keelway.statistics import ranking
from keelway.statistics.estimates import critical


def rows(
    random: np.random.Generator, positives: int, negatives: int, area: float
) -> tuple[ranking.Bools, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Normal scores whose true area is ``area``."""
    truth = np.arange(positives + negatives) < positives
    return truth, random.normal(size=len(truth)) + truth * math.sqrt(2) * NormalDist().inv_cdf(area)


def test_the_area_is_that_of_scikit_learn_ties_included() -> None:
    random = np.random.default_rng(0)
    truth = random.random(300) < 0.3
    scores = np.round(random.normal(size=300) + truth, 1)
    assert ranking.area(truth, scores).value == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_the_variance_is_that_of_the_definition() -> None:
    """DeLong's placement values, pair by pair."""
    random = np.random.default_rng(1)
    truth, scores = rows(random, 12, 20, 0.8)
    wins = (scores[truth][:, None] > scores[~truth]) + 0.5 * (scores[truth][:, None] == scores[~truth])
    expected = wins.mean(axis=1).var(ddof=1) / 12 + wins.mean(axis=0).var(ddof=1) / 20
    assert ranking.area(truth, scores).variance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("positives", "negatives", "area"), [(12, 60, 0.75), (80, 900, 0.7), (15, 200, 0.95)])
def test_each_side_of_an_area_is_wrong_as_seldom_as_it_says(positives: int, negatives: int, area: float) -> None:
    random = np.random.default_rng(5)
    drawn = np.array([ranking.area(*rows(random, positives, negatives, area)).z(area) for _ in range(1_000)])
    assert (drawn > critical(0.05)).mean() < 0.08
    assert (drawn < -critical(0.05)).mean() < 0.08


def test_a_perfect_order_of_few_rows_is_not_certain() -> None:
    found = ranking.area(np.arange(24) < 12, -np.arange(24.0))
    low, high = found.interval(0.05)
    assert found.value == 1.0
    assert low < 0.95
    assert high <= 1.0
    assert found.z(0.99) < critical(0.05)


def test_two_scores_of_the_same_rows_are_compared_as_such() -> None:
    random = np.random.default_rng(2)
    drawn = []
    for _ in range(1_000):
        truth, shared = rows(random, 60, 300, 0.75)
        first, second = (shared + random.normal(size=len(truth)) for _ in range(2))
        drawn.append(ranking.difference(truth, first, second).z(0.0))
    assert np.mean(np.array(drawn) > critical(0.05)) == pytest.approx(0.05, abs=0.025)
    apart = ranking.area(truth, first).variance + ranking.area(truth, second).variance
    assert ranking.difference(truth, first, second).error ** 2 < apart
