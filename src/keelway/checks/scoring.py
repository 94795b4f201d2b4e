"""Answers beside the truth, and the metrics of both: what each takes, how sure it is, and how two versions compare.

Scores (``roc_auc``, ``accuracy``, ``precision``, ``recall``, ``r2``) are to be high, losses (``log_loss``, ``brier``,
``mae``, ``rmse``) low. Two versions are compared on the same rows: by the difference of scores, by the ratio of losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from keelway.checks.asking import Answers
from keelway.errors import InvalidInput
from keelway.statistics import ranking
from keelway.statistics.estimates import Estimated, Floats, Normal, Ratio, Share
from keelway.statistics.pairs import paired_difference

Kind = Literal["binary", "multiclass", "regression"]
Bools = npt.NDArray[np.bool_]

#: A probability of 0 has an infinite log loss; scikit-learn's way out, at the precision of float32.
_SMALLEST: Final = float(np.finfo(np.float32).eps)
_FEWEST_ROWS: Final = 30
_FEWEST_OF_A_KIND: Final = 10


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Rows that were answered. ``truth`` and ``predicted``, (rows,), are positions among ``labels``, or values of a
    regression; ``probabilities``, (rows, labels), ``None`` if the model has none. ``positive`` is the position of the
    class whose probability is the score of two."""

    kind: Kind
    truth: Floats
    predicted: Floats
    probabilities: Floats | None = None
    labels: Sequence[Any] = ()
    positive: int = 1

    @property
    def rows(self) -> int:
        return len(self.truth)

    @property
    def score(self) -> Floats:
        """One number a row: the probability of the positive class, or the predicted value."""
        return self.predicted if self.probabilities is None else self.probabilities[:, self.positive]

    @property
    def shares(self) -> Floats:
        """The probabilities of a model that has some; ``LookupError`` of another."""
        if self.probabilities is None:
            raise LookupError("the model answers no probabilities")
        return self.probabilities

    @property
    def happened(self) -> Bools:
        """Which rows are of the positive class."""
        happened: Bools = self.truth == self.positive
        return happened

    @property
    def right(self) -> Bools:
        right: Bools = self.truth == self.predicted
        return right

    def take(self, mask: Bools) -> Scored:
        probabilities = None if self.probabilities is None else self.probabilities[mask]
        return Scored(self.kind, self.truth[mask], self.predicted[mask], probabilities, self.labels, self.positive)


def scored(answers: Answers, truth: Sequence[Any], positive: Any, *, classifies: bool) -> Scored:
    """``answers`` beside ``truth``, (rows,), for rows that were answered and have a truth; use ``usable`` to take them.

    Raises ``InvalidInput`` if the truth does not fit what the model predicts."""
    if not classifies:
        try:
            values = np.array(truth, dtype=np.float64)
            predicted = np.array([np.nan if p is None else p for p in answers.predictions], dtype=np.float64)
        except (TypeError, ValueError):
            raise InvalidInput(
                "the target is no number, and the model answers no class", hint="name another column with --target"
            ) from None
        return Scored("regression", values, predicted)
    labels = list(answers.labels) or sorted({p for p in answers.predictions if p is not None}, key=str)
    places = {spelled(label): float(place) for place, label in enumerate(labels)}
    known = np.array([places.get(spelled(value), np.nan) for value in truth])
    if np.isnan(known).all():
        raise InvalidInput(
            "no value of the target is a label of the model", hint="name the column of the labels with --target"
        )
    predicted = np.array([places.get(spelled(p), np.nan) for p in answers.predictions])
    kind: Kind = "binary" if len(labels) == 2 else "multiclass"
    return Scored(kind, known, predicted, answers.probabilities, labels, event_of(labels, positive))


def event_of(labels: Sequence[Any], positive: Any) -> int:
    """The position of the class that counts as the event: ``positive``, or the last if that is empty.

    Raises ``InvalidInput`` if it is none of ``labels``."""
    if positive == "":
        return len(labels) - 1
    known = [spelled(label) for label in labels]
    if spelled(positive) not in known:
        raise InvalidInput(
            f"{spelled(positive)!r}, the event, is no label of the model, or not of the other version",
            field="positive",
            hint="name a label of both as 'positive' in the checks, or leave --against out",
        )
    return known.index(spelled(positive))


def usable(answers: Answers, everything: Scored) -> Bools:
    """Rows with a truth that were answered with a number or a label that is there."""
    mask: Bools = ~answers.refused & np.isfinite(everything.truth) & np.isfinite(everything.predicted)
    if everything.probabilities is not None:
        mask &= np.isfinite(everything.probabilities).all(axis=1)
    return mask


def spelled(label: Any) -> str:
    """Labels are compared as text, whole numbers without a point: files make 1.0 of 1 where a value is missing."""
    if isinstance(label, bool | np.bool_):
        return str(bool(label))
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return str(int(label))
    return str(label)


class Metric(NamedTuple):
    """``estimate`` of one version, and ``compare`` of two on the same rows: a difference where ``is_score``, else a
    ratio; ``None`` if two cannot be compared so."""

    kinds: frozenset[Kind]
    is_score: bool
    estimate: Callable[[Scored], Estimated]
    compare: Callable[[Scored, Scored], Estimated] | None
    needs_probabilities: bool = False

    def missing(self, rows: Scored) -> str:
        """Empty if it can be estimated of ``rows``; else what they lack."""
        if rows.kind not in self.kinds:
            return f"no metric of a {rows.kind} model"
        if self.needs_probabilities and rows.probabilities is None:
            return "the model answers no probabilities"
        if rows.rows < _FEWEST_ROWS:
            return f"too few rows: {rows.rows}, and it takes {_FEWEST_ROWS}"
        if rows.kind == "binary":
            fewest = int(min(rows.happened.sum(), (~rows.happened).sum()))
            if fewest < _FEWEST_OF_A_KIND:
                return f"too few rows: {fewest} of one class, and it takes {_FEWEST_OF_A_KIND}"
        return ""


@dataclass(frozen=True, slots=True)
class _Root:
    """The root of what ``inner`` estimates; a test of it is a test of the square."""

    inner: Estimated

    @property
    def value(self) -> float:
        return math.sqrt(self.inner.value)

    def z(self, bound: float) -> float:
        return self.inner.z(bound * bound) if bound >= 0 else math.inf

    def interval(self, alpha: float) -> tuple[float, float]:
        low, high = self.inner.interval(alpha)
        return math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0))


@dataclass(frozen=True, slots=True)
class _Rest:
    """1 less what ``inner`` estimates."""

    inner: Estimated

    @property
    def value(self) -> float:
        return 1 - self.inner.value

    def z(self, bound: float) -> float:
        return -self.inner.z(1 - bound)

    def interval(self, alpha: float) -> tuple[float, float]:
        low, high = self.inner.interval(alpha)
        return 1 - high, 1 - low


def log_losses(rows: Scored) -> Floats:
    """Natural logarithms, (rows,)."""
    said = rows.shares[np.arange(rows.rows), rows.truth.astype(int)]
    losses: Floats = -np.log(np.clip(said, _SMALLEST, 1.0))
    return losses


def brier_losses(rows: Scored) -> Floats:
    """Squared errors of the probabilities, (rows,): of the positive class of two, summed over more."""
    if rows.kind == "binary":
        return (rows.score - rows.happened) ** 2
    hits = rows.truth[:, None] == np.arange(rows.shares.shape[1])
    losses: Floats = ((rows.shares - hits) ** 2).sum(axis=1)
    return losses


def absolute_errors(rows: Scored) -> Floats:
    return np.abs(rows.predicted - rows.truth)


def squared_errors(rows: Scored) -> Floats:
    errors: Floats = (rows.predicted - rows.truth) ** 2
    return errors


def around_the_mean(rows: Scored) -> Floats:
    """Squared errors of the best constant answer, (rows,)."""
    errors: Floats = (rows.truth - rows.truth.mean()) ** 2
    return errors


def _loss(of: Callable[[Scored], Floats], kinds: frozenset[Kind], *, probabilities: bool) -> Metric:
    return Metric(
        kinds, False, lambda rows: Ratio(of(rows)), lambda new, old: loss_ratio(of(new), of(old)), probabilities
    )


def loss_ratio(new: Floats, old: Floats) -> Estimated:
    """The loss of one version by that of another; certain where both are perfect."""
    if not old.any():
        return Normal(1.0 if not new.any() else math.inf, 0.0)
    return Ratio(new, old)


def _compare_right(new: Scored, old: Scored) -> Estimated:
    return paired_difference(int((new.right & ~old.right).sum()), int((old.right & ~new.right).sum()), new.rows)


def _of_predicted(rows: Scored) -> Estimated:
    named = rows.predicted == rows.positive
    return Share(int((named & rows.happened).sum()), max(int(named.sum()), 1))


def _of_happened(rows: Scored) -> Estimated:
    named = rows.predicted == rows.positive
    return Share(int((named & rows.happened).sum()), max(int(rows.happened.sum()), 1))


_BINARY: Final[frozenset[Kind]] = frozenset({"binary"})
_CLASSES: Final[frozenset[Kind]] = frozenset({"binary", "multiclass"})
_NUMBERS: Final[frozenset[Kind]] = frozenset({"regression"})

METRICS: Final[Mapping[str, Metric]] = {
    "roc_auc": Metric(
        _BINARY,
        True,
        lambda rows: ranking.area(rows.happened, rows.score),
        lambda new, old: ranking.difference(new.happened, new.score, old.score),
        True,
    ),
    "accuracy": Metric(_CLASSES, True, lambda rows: Share(int(rows.right.sum()), rows.rows), _compare_right),
    "precision": Metric(_BINARY, True, _of_predicted, None),
    "recall": Metric(_BINARY, True, _of_happened, None),
    "log_loss": _loss(log_losses, _CLASSES, probabilities=True),
    "brier": _loss(brier_losses, _CLASSES, probabilities=True),
    "mae": _loss(absolute_errors, _NUMBERS, probabilities=False),
    "rmse": Metric(
        _NUMBERS,
        False,
        lambda rows: _Root(Ratio(squared_errors(rows))),
        lambda new, old: _Root(loss_ratio(squared_errors(new), squared_errors(old))),
    ),
    "r2": Metric(_NUMBERS, True, lambda rows: _Rest(Ratio(squared_errors(rows), around_the_mean(rows))), None),
}


def metric_of(name: str) -> Metric:
    """Raises ``InvalidInput`` naming those that there are."""
    if name not in METRICS:
        raise InvalidInput(f"there is no metric '{name}'", field=name, hint=f"there are {', '.join(METRICS)}")
    return METRICS[name]


def main_metric(rows: Scored) -> str:
    """By what two versions are compared if nobody says."""
    if rows.kind == "regression":
        return "mae"
    return "roc_auc" if rows.kind == "binary" and rows.probabilities is not None else "accuracy"
