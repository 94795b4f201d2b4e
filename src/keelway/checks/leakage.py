"""Smells of leakage: signs that the version knew the answers, or will not find its features when it serves.

A smell is no proof, and no smell is no proof of the contrary: what is found stops a version until a person has looked,
and has either mended it or named the feature under ``leakage.accept``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keelway.checks.alone import alone
from keelway.checks.case import Case
from keelway.checks.findings import Finding, fact, skipped, undecided
from keelway.checks.metrics import better_than_a_constant
from keelway.checks.plan import LeakageRule
from keelway.checks.scoring import spelled
from keelway.contract.sample import column_kind
from keelway.statistics.estimates import Floats, p_value

if TYPE_CHECKING:
    import pandas as pd

FAMILY = "leakage"

_IDENTIFIER = re.compile(
    r"(?:^|[_\s.-])(?:id|ids|uuid|guid|key|rowid|index)$|^(?:id|uuid|guid)(?:[_\s.-]|$)|[a-z]I[dD]$", re.ASCII
)
_MOMENT = re.compile(
    r"(?:^|[_\s.-])(?:date|datetime|timestamp|time|at|on)$|^(?:date|timestamp)(?:[_\s.-]|$)", re.IGNORECASE
)
_DATED = re.compile(r"\d{4}-\d\d?-\d\d?([T ]\d\d?:.*)?|\d\d?[./]\d\d?[./]\d{2,4}", re.ASCII)
#: Rows from which uniqueness says something.
_ENOUGH = 50
#: What a lawful feature may reach of the score, so that reaching ``single_feature`` by chance has a known probability.
_LAWFUL = 0.95


def check(case: Case) -> Iterator[Finding]:
    rule = case.plan.leakage
    names = [feature.name for feature in case.subject.signature.features]
    suspects = [name for name in names if name not in rule.accept]
    yield from _single_features(case, suspects)
    yield _named("identifiers", [name for name in suspects if is_identifier(case.frame[name])], "tell rows apart")
    yield _named("dates", [name for name in suspects if is_moment(case.frame[name])], "are moments")
    if case.train is None:
        for name in ("twins of training rows", "target-encoded columns"):
            yield skipped(FAMILY, name, "no training rows: name their file with --train")
        return
    yield _twins(case.frame, case.train, names, rule)
    if not case.target or case.target not in case.train.columns:
        yield skipped(FAMILY, "target-encoded columns", "the training rows hold no target")
        return
    truth = _as_numbers(case, case.train[case.target])
    encoded = [] if truth is None else [name for name in suspects if is_target_encoded(case.train[name], truth)]
    yield _named("target-encoded columns", encoded, "are means of the target")


def _single_features(case: Case, names: list[str]) -> Iterator[Finding]:
    """One finding for all features that keep below, and one for each that does not."""
    title = "a single feature"
    if case.scored is None:
        yield skipped(FAMILY, title, "no truth to judge by: name its column with --target")
        return
    if len(case.subject.signature.features) == 1:
        yield skipped(FAMILY, title, "the model has no other")
        return
    rule, rows = case.plan.leakage, case.scored
    if better_than_a_constant(rows, case.plan.alpha).verdict != "passed":
        why = "the score is not proved better than a constant answer's, and a share of it says nothing"
        yield undecided(FAMILY, title, why, rows=rows.rows, proof=False)
        return
    reached = {name: alone(case.rows[name], rows, _LAWFUL) for name in names}
    judgeable = {name: found for name, found in reached.items() if found is not None}
    if not judgeable:
        yield undecided(
            FAMILY, title, "these rows are too few, or the score is no better than chance", rows=rows.rows, proof=False
        )
        return
    suspects = {name: found for name, found in judgeable.items() if found.share >= rule.single_feature}
    for name, found in suspects.items():
        said = f"{name} alone reaches {found.share:.1%} of the score; suspect from {rule.single_feature:.0%} on"
        yield Finding(
            FAMILY,
            f"{title}: {name}",
            "inconclusive",
            said,
            figure=found.share,
            at_most=rule.single_feature,
            rows=rows.rows,
            # Of all features, however many of them stand out: those that do not are part of the search.
            p_value=min(1.0, len(judgeable) * p_value(-found.z)),
        )
    if not suspects:
        best = max(judgeable, key=lambda name: judgeable[name].share)
        share = judgeable[best].share
        said = f"the strongest, {best}, alone reaches {max(share, 0.0):.0%} of the score"
        said += f"; suspect from {rule.single_feature:.0%} on"
        yield fact(FAMILY, title, True, said, rows=rows.rows, figure=share)


def _named(title: str, names: list[str], what: str) -> Finding:
    said = f"{', '.join(names[:8])} {what}" if names else "none is seen"
    if names:
        said += "; drop them, or accept them in the checks: leakage.accept"
    return fact(FAMILY, title, not names, said, figure=float(len(names)))


def _twins(frame: pd.DataFrame, train: pd.DataFrame, names: list[str], rule: LeakageRule) -> Finding:
    """Rows with the same features among those that were trained on: the model may have learned them by heart."""
    import pandas as pd

    known = [name for name in names if name in train.columns]
    if not known:
        return skipped(FAMILY, "twins of training rows", "the training rows have none of the features")
    there = pd.util.hash_pandas_object(_comparable(train[known]), index=False)
    here = pd.util.hash_pandas_object(_comparable(frame[known]), index=False)
    twins = int(here.isin(set(there)).sum())
    share = twins / len(here)
    said = f"{twins} of {len(here)} rows are among the training rows ({share:.1%}, at most {rule.duplicates:.1%})"
    return fact(FAMILY, "twins of training rows", share <= rule.duplicates, said, rows=len(here), figure=share)


def _comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as float64, all else as text: files disagree about the width of a column, and rows are to be compared."""
    made = {}
    for name in frame.columns:
        column = frame[name]
        made[name] = column.astype("float64") if column_kind(column) == "number" else column.astype(object).astype(str)
    return frame.assign(**made)


def is_identifier(column: pd.Series[Any]) -> bool:
    """A name such as ``customer_id`` or a running number, where nearly all rows differ in text or whole numbers."""
    present = column.dropna()
    if len(present) < _ENOUGH or column_kind(column) == "boolean":
        return False
    unique = present.nunique() / len(present)
    if column_kind(column) == "text":
        return bool(unique >= 0.99 and not present.astype(str).str.contains(" ").mean() > 0.5)
    values = present.to_numpy(dtype=np.float64)
    if not (values == np.round(values)).all() or unique < 0.99:
        return False
    steps = np.diff(np.sort(values))
    return bool(_IDENTIFIER.search(str(column.name)) or (steps == 1).mean() >= 0.99)


def is_moment(column: pd.Series[Any]) -> bool:
    """Text that is dates, or numbers that are dates by their name and size (days, seconds or digits of a date)."""
    present = column.dropna()
    if not len(present):
        return False
    if column_kind(column) == "text":
        return bool(present.astype(str).str.fullmatch(_DATED).mean() >= 0.95)
    if column_kind(column) == "boolean" or not _MOMENT.search(str(column.name)):
        return False
    middle = float(np.median(present.to_numpy(dtype=np.float64)))
    return 1.9e7 <= middle <= 2.1e7 or 5e8 <= middle <= 4e9 or 5e11 <= middle <= 4e12 or 5e17 <= middle <= 4e18


def is_target_encoded(column: pd.Series[Any], truth: Floats) -> bool:
    """Whether each value is the mean of the target, (rows,), over the training rows that have it, or that mean drawn
    towards the mean of all by a constant weight: n·(value − mean) is then a line in the value. Encodings made out of
    fold are not seen."""
    if column_kind(column) != "number":
        return False
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    there = np.isfinite(values) & np.isfinite(truth)
    groups, places, counts = np.unique(values[there], return_inverse=True, return_counts=True)
    if not 5 <= len(groups) <= there.sum() / 4:
        return False
    means = np.bincount(places, weights=truth[there]) / counts
    spread = float(truth[there].std())
    if spread == 0 or np.ptp(groups) == 0:
        return False
    pull = counts * (groups - means)
    line = np.polynomial.Polynomial.fit(groups, pull, 1)(groups)
    return bool(np.abs((pull - line) / counts).max() < 1e-4 * spread)


def _as_numbers(case: Case, column: pd.Series[Any]) -> Floats | None:
    """The training target as the score counts it: 1 for the positive class, or the number; ``None`` of many classes."""
    scored = case.scored
    if scored is None or scored.kind == "multiclass":
        return None
    if scored.kind == "regression":
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    positive = spelled(scored.labels[scored.positive])
    return np.array([float(spelled(value) == positive) for value in column])
