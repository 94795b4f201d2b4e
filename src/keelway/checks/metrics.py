"""Floors: the version is better than a constant answer, and keeps every bound that was declared, in slices too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from keelway.checks.case import Case
from keelway.checks.findings import Finding, judged, skipped, undecided
from keelway.checks.scoring import Scored, metric_of
from keelway.checks.slices import slices
from keelway.statistics.pairs import paired_difference

FAMILY = "metrics"


def check(case: Case) -> Iterator[Finding]:
    if case.scored is None:
        yield skipped(FAMILY, "metrics", "no truth to judge by: name its column with --target")
        return
    plan, rows = case.plan, case.scored
    yield better_than_a_constant(rows, plan.alpha)
    yield from _floors(rows, plan.metrics, plan.alpha)
    large, _ = slices(case.rows, plan.slices)
    for part in large if plan.slices.metrics else ():
        yield from _floors(rows.take(part.mask), plan.slices.metrics, plan.alpha, part.name, proof=plan.slices.prove)


def better_than_a_constant(rows: Scored, alpha: float) -> Finding:
    """Against the best answer that looks at no feature."""
    if rows.kind == "binary" and rows.probabilities is not None:
        return _floor(rows, "roc_auc", 0.5, alpha, said="a constant answer reaches 0.5")
    if rows.kind == "regression":
        return _floor(rows, "r2", 0.0, alpha, said="a constant answer reaches 0")
    name = "accuracy over the most frequent class"
    if rows.rows < 30:
        return undecided(FAMILY, name, f"too few rows: {rows.rows}, and it takes 30", rows=rows.rows)
    values, counts = np.unique(rows.truth, return_counts=True)
    constant = rows.truth == values[counts.argmax()]
    gain = paired_difference(int((rows.right & ~constant).sum()), int((constant & ~rows.right).sum()), rows.rows)
    return judged(FAMILY, name, gain, alpha, rows=rows.rows, at_least=0.0)


def _floors(
    rows: Scored, bounds: Mapping[str, float], alpha: float, slice_: str = "", *, proof: bool = True
) -> Iterator[Finding]:
    for name, bound in bounds.items():
        yield _floor(rows, name, bound, alpha, slice_, proof=proof)


def _floor(
    rows: Scored, name: str, bound: float, alpha: float, slice_: str = "", *, said: str = "", proof: bool = True
) -> Finding:
    metric = metric_of(name)
    if lacks := metric.missing(rows):
        return undecided(FAMILY, name, lacks, rows=rows.rows, slice_=slice_, proof=proof)
    return judged(
        FAMILY,
        name,
        metric.estimate(rows),
        alpha,
        rows=rows.rows,
        at_least=bound if metric.is_score else None,
        at_most=None if metric.is_score else bound,
        said=said,
        slice_=slice_,
        proof=proof,
    )
