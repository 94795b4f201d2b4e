"""Expectations about features: what must not change the answer (invariance), and what may move it one way only
(M. T. Ribeiro and others, "Beyond accuracy: behavioral testing of NLP models with CheckList", ACL 2020).

They need no truth. What is estimated is the share of all rows, not only of these, that break the expectation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from keelway.checks.asking import Answers, ask
from keelway.checks.case import Case
from keelway.checks.findings import Finding, judged, skipped, undecided
from keelway.checks.plan import Direction, Invariance
from keelway.checks.scoring import Bools, event_of
from keelway.contract.sample import numbers
from keelway.errors import InvalidInput
from keelway.statistics.estimates import Floats, Share

if TYPE_CHECKING:
    import pandas as pd

FAMILY = "expectations"


def check(case: Case) -> Iterator[Finding]:
    plan = case.plan
    if not plan.invariance and not plan.direction:
        yield skipped(FAMILY, "invariance and direction", "none is declared")
    for rule in plan.invariance:
        yield _invariant(case, rule)
    for direction in plan.direction:
        yield _directed(case, direction)


def _invariant(case: Case, rule: Invariance) -> Finding:
    rows = case.frame[~case.answers.refused]
    _known(rule.feature, rows)
    before = _scores(case.answers)[~case.answers.refused]
    unit = 1.0 if case.answers.probabilities is not None or case.classifies else max(float(before.std()), 1e-12)
    column = rows[rule.feature]
    changed = [column.sample(frac=1.0, random_state=case.plan.seed).to_numpy()]
    if rule.values:
        changed = [np.full(len(rows), value, dtype=np.array([value]).dtype) for value in rule.values]
    broken, answered = np.zeros(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)
    for values in changed:
        answers = ask(case.subject, rows.assign(**{rule.feature: values}))
        moved = np.abs(_scores(answers) - before).max(axis=1) > rule.tolerance * unit
        broken |= moved & ~answers.refused
        answered &= ~answers.refused
    how = f"set to {len(rule.values)} values" if rule.values else "shuffled among the rows"
    return _judged(case, f"{rule.feature} changes nothing", broken, answered, rule.at_most, f"{rule.feature} {how}")


def _directed(case: Case, rule: Direction) -> Finding:
    rows = case.frame[~case.answers.refused]
    _known(rule.feature, rows)
    before = _one_number(case, case.answers)[~case.answers.refused]
    answers = ask(case.subject, rows.assign(**{rule.feature: numbers(rows[rule.feature]) + rule.change}))
    sign = 1.0 if rule.expect == "increase" else -1.0
    broken = sign * (_one_number(case, answers) - before) < -rule.tolerance
    said = f"{rule.feature} {rule.change:+g} may only {rule.expect} the answer"
    return _judged(
        case, f"{rule.feature} {rule.expect}s", broken & ~answers.refused, ~answers.refused, rule.at_most, said
    )


def _judged(case: Case, name: str, broken: Bools, answered: Bools, at_most: float, said: str) -> Finding:
    rows = int(answered.sum())
    if rows < len(answered):
        said += f"; {len(answered) - rows} changed rows were refused"
    if 2 * rows < len(answered) or not rows:
        return undecided(FAMILY, name, said, rows=rows)
    share = Share(int((broken & answered).sum()), rows)
    return judged(FAMILY, name, share, case.plan.alpha, rows=rows, at_most=at_most, said=said)


def _scores(answers: Answers) -> Floats:
    """Every number of an answer, (rows, numbers); labels without probabilities are 1 for each that is given."""
    if answers.probabilities is not None:
        return np.nan_to_num(answers.probabilities)
    if all(p is None or isinstance(p, float) for p in answers.predictions):
        return np.array([[0.0 if p is None else p] for p in answers.predictions])
    labels = {label: place for place, label in enumerate(answers.labels)}
    scores = np.zeros((len(answers.predictions), len(labels)))
    for row, prediction in enumerate(answers.predictions):
        if prediction in labels:
            scores[row, labels[prediction]] = 1.0
    return scores


def _one_number(case: Case, answers: Answers) -> Floats:
    """The score of two classes, or the predicted value, (rows,)."""
    scores = _scores(answers)
    if not case.classifies and scores.shape[1] == 1:
        return scores[:, 0]
    if scores.shape[1] != 2:
        raise InvalidInput("a direction needs a model of two classes or of a number", field="direction")
    return scores[:, event_of(answers.labels, case.plan.positive)]


def _known(feature: str, rows: pd.DataFrame) -> None:
    if feature not in rows.columns:
        raise InvalidInput(f"the sample has no column '{feature}' to change", field=feature)
