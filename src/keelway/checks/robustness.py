"""Robustness: a little noise, and a few values that are missing, cost little of the metric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from keelway.checks.case import Case
from keelway.checks.champion import not_worse
from keelway.checks.findings import Finding, fact, judged, skipped
from keelway.checks.scoring import Scored, absolute_errors
from keelway.contract.sample import column_kind, numbers
from keelway.contract.signature import Feature
from keelway.statistics.estimates import Ratio

if TYPE_CHECKING:
    import pandas as pd

FAMILY = "robustness"


def check(case: Case) -> Iterator[Finding]:
    rule = case.plan.robustness
    if case.scored is None:
        yield skipped(FAMILY, "robustness", "no truth to judge by: name its column with --target")
        return
    features = [f for f in case.subject.signature.features if f.name not in rule.exclude]
    noisy = [f for f in features if f.datatype != "BOOL" and column_kind(case.rows[f.name]) == "number"]
    if not noisy or not rule.noise:
        yield skipped(FAMILY, "noise", "no number takes noise")
    else:
        said = f"noise of {rule.noise:g} standard deviations on {len(noisy)} features, whole numbers kept whole"
        yield _held(case, case.scored, "noise", _with_noise(case.rows, noisy, rule.noise, case.random), said)
    absent = [f for f in features if f.nullable]
    if not absent or not rule.missing:
        yield skipped(FAMILY, "missing values", "no feature may be missing: a server refuses such rows")
    else:
        said = f"{rule.missing:.0%} of the values of {len(absent)} features taken away"
        yield _held(case, case.scored, "missing values", _with_gaps(case.rows, absent, rule.missing, case.random), said)


def _held(case: Case, clean: Scored, name: str, rows: pd.DataFrame, said: str) -> Finding:
    changed = case.ask_again(rows)
    title = f"{case.metric} with {name}"
    if changed is None:
        return fact(FAMILY, title, False, f"rows were refused, or answered with no number: {said}", rows=len(rows))
    proof = FAMILY in case.plan.declared
    rule = case.plan.robustness
    if clean.kind == "regression":
        # Not the ratio of two versions: of a model with hardly any error, the least noise makes a multiple.
        grown = absolute_errors(changed) - absolute_errors(clean)
        share = Ratio(grown, np.abs(clean.truth - np.median(clean.truth)))
        title = f"error added by {name}"
        said = f"as a share of the error of a constant answer; {said}"
        return judged(
            FAMILY, title, share, case.plan.alpha, rows=clean.rows, at_most=rule.margin, said=said, proof=proof
        )
    return not_worse(
        FAMILY, case.metric, changed, clean, rule.margin, case.plan.alpha, title=title, said=said, proof=proof
    )


def _with_noise(rows: pd.DataFrame, features: list[Feature], noise: float, random: np.random.Generator) -> pd.DataFrame:
    changed = {}
    for feature in features:
        values = numbers(rows[feature.name])
        present = values[np.isfinite(values)]
        moved = values + random.normal(0.0, noise * (present.std() if len(present) else 0.0), len(values))
        # Out of what was there a value says something new, and constraints may refuse it.
        moved = np.clip(moved, present.min(), present.max()) if len(present) else moved
        changed[feature.name] = np.round(moved) if (present == np.round(present)).all() else moved
    return rows.assign(**changed)


def _with_gaps(rows: pd.DataFrame, features: list[Feature], share: float, random: np.random.Generator) -> pd.DataFrame:
    gone = random.random((len(rows), len(features))) < share
    return rows.assign(
        **{
            feature.name: rows[feature.name].astype(object).mask(gone[:, place])
            for place, feature in enumerate(features)
        }
    )
