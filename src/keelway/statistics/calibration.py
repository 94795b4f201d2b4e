"""Whether probabilities mean what they say, by levels (B. Van Calster and others, "A calibration hierarchy for risk
models was defined", Journal of Clinical Epidemiology 74 (2016), 167-176).

*In the large*: as many events as expected. *Weak*: the slope of D. R. Cox's recalibration ("Two further applications of
a model for binary regression", Biometrika 45 (1958), 562-565) is 1; below 1 the scores are too extreme, above 1 too
timid. The expected calibration error beside them is a figure and no estimate: not even of perfect scores is it 0.
"""

from __future__ import annotations

import math

import numpy as np

from keelway.statistics.estimates import Floats, Normal, Ratio

_ROUNDS = 50


def observed_to_expected(happened: Floats, probabilities: Floats) -> Ratio:
    """Events by the sum of their probabilities, (rows,) each; 1 if calibrated in the large."""
    return Ratio(happened, probabilities)


def slope(happened: Floats, probabilities: Floats) -> Normal | None:
    """The slope of the logistic regression of ``happened`` on the log-odds of ``probabilities``, (rows,) each, with the
    robust standard error (P. J. Huber's sandwich). ``None`` where it cannot be fitted: all scores equal, or the two
    kinds of rows do not overlap. Probabilities of 0 and 1, which no log-odds have, are half a row from the end, and no
    nearer to the middle than any other."""
    inside = probabilities[(probabilities > 0) & (probabilities < 1)]
    half = 0.5 / len(probabilities)
    clipped = np.clip(probabilities, inside.min(initial=half), inside.max(initial=1 - half))
    odds = np.log(clipped / (1 - clipped))
    if np.ptp(odds) < 1e-9 or not 0 < happened.mean() < 1:
        return None
    design = np.column_stack([np.ones_like(odds), odds])
    # From no slope Newton's steps arrive; from 1 they leave where scores are much too extreme.
    coefficients = np.array([math.log(happened.mean() / (1 - happened.mean())), 0.0])
    for _ in range(_ROUNDS):
        fitted = 1 / (1 + np.exp(-np.clip(design @ coefficients, -500, 500)))
        information = (design * (fitted * (1 - fitted))[:, None]).T @ design
        try:
            step = np.linalg.solve(information, design.T @ (happened - fitted))
        except np.linalg.LinAlgError:
            return None
        coefficients = coefficients + step
        if np.abs(step).max() < 1e-10:
            break
    else:
        return None
    bread = np.linalg.inv(information)
    scored = design * (happened - fitted)[:, None]
    covariance = bread @ (scored.T @ scored) @ bread
    return Normal(float(coefficients[1]), math.sqrt(float(covariance[1, 1])))


def expected_calibration_error(happened: Floats, probabilities: Floats, bins: int = 10) -> float:
    """The mean distance between events and probabilities over ``bins`` groups of equally many rows, in the order of the
    probabilities (equal ones are not parted by it, as they may be)."""
    order = np.argsort(probabilities, kind="stable")
    gaps = [
        len(group) * abs(float(happened[group].mean() - probabilities[group].mean()))
        for group in np.array_split(order, min(bins, len(order)))
    ]
    return sum(gaps) / len(order)


def chance_calibration_error(
    probabilities: Floats, random: np.random.Generator, bins: int = 10, rounds: int = 200, level: float = 0.95
) -> float:
    """What ``expected_calibration_error`` of these very scores stays below with probability ``level`` if they are
    perfectly calibrated."""
    draws = random.random((rounds, len(probabilities))) < probabilities
    return float(np.quantile([expected_calibration_error(d.astype(float), probabilities, bins) for d in draws], level))
