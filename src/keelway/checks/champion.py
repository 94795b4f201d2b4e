"""Against the champion: on the same rows the version is not worse than the other by more than was declared, as a whole
and in slices.

That is non-inferiority, not a test of a difference: a test that finds none has perhaps only seen too little.
"""

from __future__ import annotations

from collections.abc import Iterator

from keelway.checks.case import Case
from keelway.checks.findings import Finding, fact, judged, skipped, undecided
from keelway.checks.scoring import Scored, metric_of
from keelway.checks.slices import slices
from keelway.errors import InvalidInput

FAMILY = "champion"


def check(case: Case) -> Iterator[Finding]:
    if case.champion is None:
        yield skipped(FAMILY, "not worse", "there is no other version to compare with: say --against champion")
        return
    if case.champion.model_digest == case.subject.model_digest:
        yield fact(FAMILY, "not worse", True, f"{case.champion.version} is the same model")
        return
    if case.champions is None or case.scored is None:
        yield skipped(FAMILY, "not worse", "no truth to judge by: name its column with --target")
        return
    plan, new, old = case.plan, case.scored, case.champions
    name = case.metric
    yield not_worse(FAMILY, name, new, old, plan.champion.margin, plan.alpha, said=f"against {case.champion.version}")
    large, small = slices(case.rows, plan.slices)
    for part in large:
        margin, prove = plan.champion.slice_margin, plan.slices.prove
        halves = new.take(part.mask), old.take(part.mask)
        yield not_worse(FAMILY, name, *halves, margin, plan.alpha, slice_=part.name, proof=prove)
    if small:
        said = f"{len(small)} slices have fewer than {plan.slices.min_rows} rows and are not judged"
        yield skipped(FAMILY, "small slices", said)


def not_worse(
    family: str,
    name: str,
    new: Scored,
    old: Scored,
    margin: float,
    alpha: float,
    *,
    title: str = "",
    said: str = "",
    slice_: str = "",
    proof: bool = True,
) -> Finding:
    """The metric ``name`` of ``new`` against that of ``old``: a score loses ``margin`` at most, a loss is at most
    1 + ``margin`` times the other. Raises ``InvalidInput`` for a metric that two versions are not compared by."""
    metric = metric_of(name)
    if metric.compare is None:
        raise InvalidInput(f"two versions are not compared by '{name}'", field=name, hint="accuracy, or roc_auc")
    title = title or (f"{name}, difference" if metric.is_score else f"{name}, ratio")
    if lacks := metric.missing(new) or metric.missing(old):
        return undecided(family, title, lacks, rows=new.rows, slice_=slice_, proof=proof)
    return judged(
        family,
        title,
        metric.compare(new, old),
        alpha,
        rows=new.rows,
        at_least=-margin if metric.is_score else None,
        at_most=None if metric.is_score else 1 + margin,
        said=said,
        slice_=slice_,
        proof=proof,
    )
