"""Skew between training and serving: what is served is what the model said where it was trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from keelway.checks.case import Case
from keelway.checks.findings import Finding, fact, skipped
from keelway.checks.scoring import event_of, spelled
from keelway.errors import InvalidInput

FAMILY = "skew"


def check(case: Case) -> Iterator[Finding]:
    rule = case.plan.skew
    if not rule.column:
        yield skipped(FAMILY, "trained and served agree", "no predictions of the training side: --trained COLUMN")
        return
    if rule.column not in case.frame.columns:
        raise InvalidInput(f"the sample has no column '{rule.column}' of trained predictions", field=rule.column)
    column, answers = case.frame[rule.column], case.answers
    there = ~answers.refused & column.notna().to_numpy()
    if not there.any():
        raise InvalidInput("no answered row has a trained prediction", field=rule.column)
    trained = column[there].tolist()
    if case.classifies and not all(isinstance(value, float) for value in trained):
        pairs = zip(trained, answers.predictions[there], strict=True)
        apart = np.array([float(spelled(said) != spelled(served)) for said, served in pairs])
    else:
        if answers.probabilities is None:
            served = answers.predictions[there].astype(float)
        else:
            served = answers.probabilities[there, event_of(answers.labels, case.plan.positive)]
        apart = np.abs(np.array(trained, dtype=float) - served) / np.maximum(1.0, np.abs(served))
    over = int((apart > rule.tolerance).sum())
    said = f"{over} of {len(apart)} rows differ by more than {rule.tolerance:g}, the farthest by {apart.max():.2g}"
    yield fact(FAMILY, "trained and served agree", over == 0, said, rows=len(apart), figure=float(apart.max()))
