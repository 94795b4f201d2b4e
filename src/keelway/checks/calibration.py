"""Calibration: the probabilities of the version mean what they say, in the large and in their spread.

Of more than two classes it is the probability of the predicted one that is judged, against how often it is right.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from keelway.checks.case import Case
from keelway.checks.findings import Finding, judged, skipped, undecided
from keelway.checks.scoring import METRICS, Scored
from keelway.statistics import calibration
from keelway.statistics.estimates import Floats

FAMILY = "calibration"
_RATIO, _SLOPE = "observed / expected events", "slope of recalibration"


def check(case: Case) -> Iterator[Finding]:
    rows, rule, plan = case.scored, case.plan.calibration, case.plan
    if rows is None or rows.probabilities is None or rows.kind == "regression":
        yield skipped(FAMILY, "calibration", "no probabilities beside a truth")
        return
    proof = FAMILY in plan.declared
    happened, said = events(rows)
    lacks = METRICS["log_loss"].missing(rows)
    if not lacks and not 10 <= happened.sum() <= len(happened) - 10:
        lacks = f"too few rows: {int(min(happened.sum(), (1 - happened).sum()))} of one kind, and it takes 10"
    if lacks:
        yield undecided(FAMILY, _RATIO, lacks, rows=rows.rows, proof=proof)
        return
    error = calibration.expected_calibration_error(happened, said)
    chance = calibration.chance_calibration_error(said, case.random)
    beside = f"mean gap in ten groups {error:.3f}; of perfect probabilities below {chance:.3f} in 95 % of samples"
    ratio = calibration.observed_to_expected(happened, said)
    low, high = rule.ratio
    yield judged(
        FAMILY, _RATIO, ratio, plan.alpha, rows=rows.rows, at_least=low, at_most=high, said=beside, proof=proof
    )
    slope = calibration.slope(happened, said)
    if slope is None:
        yield undecided(FAMILY, _SLOPE, "these rows are told apart without an error", rows=rows.rows, proof=False)
        return
    low, high = rule.slope
    beside = "below 1: too extreme, above 1: too timid"
    yield judged(
        FAMILY, _SLOPE, slope, plan.alpha, rows=rows.rows, at_least=low, at_most=high, said=beside, proof=proof
    )


def events(rows: Scored) -> tuple[Floats, Floats]:
    """What happened and with what probability it was said to, (rows,) each."""
    if rows.kind == "binary":
        return rows.happened.astype(np.float64), rows.score
    return rows.right.astype(np.float64), rows.shares[np.arange(rows.rows), rows.predicted.astype(int)]
