"""The contract: the version answers the rows of the sample, whole and valid, the same each time and in any company."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from keelway.checks.asking import Answers, ask
from keelway.checks.case import Case
from keelway.checks.findings import Finding, fact

FAMILY = "contract"

#: Rows that are asked one by one.
_ALONE = 20
#: As far as a row may move with its neighbours: sums in another order.
_TOLERANCE = 1e-5


def check(case: Case) -> Iterator[Finding]:
    answers, rows = case.answers, len(case.frame)
    refused = int(answers.refused.sum())
    where = f", because of {', '.join(answers.fields[:5])}" if answers.fields else ""
    said = f"{refused} of {rows} rows refused{where}"
    yield fact(FAMILY, "rows are accepted", refused == 0, said, rows=rows, figure=refused / rows)
    yield _valid(answers)
    if case.everything is not None and case.everything.kind != "regression":
        unknown = int(np.isnan(case.everything.truth).sum())
        said = f"{unknown} of {rows} rows have a target that is no label of the model"
        yield fact(FAMILY, "labels are known", unknown == 0, said, rows=rows)
    again = ask(case.subject, case.frame)
    moved = int((_distance(answers, again) > 0).sum())
    yield fact(FAMILY, "answers repeat", moved == 0, f"{moved} of {rows} rows answered otherwise when asked again")
    few = case.frame.head(_ALONE)
    alone = [ask(case.subject, few.iloc[[place]]) for place in range(len(few))]
    distances = [_distance(_row(answers, place), one)[0] for place, one in enumerate(alone)]
    moved = sum(distance > _TOLERANCE for distance in distances)
    said = f"{moved} of {len(few)} rows answered otherwise alone than with others"
    yield fact(FAMILY, "rows are independent", moved == 0, said, rows=len(few))


def _valid(answers: Answers) -> Finding:
    """Numbers are finite and probabilities are probabilities, in every row that was answered."""
    there = ~answers.refused
    bad = np.array([isinstance(p, float) and not np.isfinite(p) for p in answers.predictions[there]], dtype=bool)
    if answers.probabilities is not None:
        shares = answers.probabilities[there]
        inside = ((shares >= -1e-6) & (shares <= 1 + 1e-6)).all(axis=1)
        bad |= ~inside | (np.abs(shares.sum(axis=1) - 1) > 1e-3)
    said = f"{int(bad.sum())} of {int(there.sum())} answers hold no finite number, or shares that are no probabilities"
    return fact(FAMILY, "answers are valid", not bad.any(), said, rows=int(there.sum()))


def _distance(first: Answers, second: Answers) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How far two answers to the same rows are apart, (rows,): the largest difference of a probability, or of a number
    relative to its size; 1 where labels differ or one was refused."""
    if first.probabilities is not None and second.probabilities is not None:
        apart = np.abs(first.probabilities - second.probabilities).max(axis=1)
        return np.where(first.refused & second.refused, 0.0, np.nan_to_num(apart, nan=1.0))
    pairs = zip(first.predictions, second.predictions, strict=True)
    return np.array([_apart(one, other) for one, other in pairs])


def _apart(one: object, other: object) -> float:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(1.0, abs(one))
    return float(one != other)


def _row(answers: Answers, place: int) -> Answers:
    probabilities = None if answers.probabilities is None else answers.probabilities[[place]]
    return Answers(answers.predictions[[place]], probabilities, answers.labels, answers.refused[[place]])
