"""The original model, asked: what it answers for a batch of rows, and which rows it refuses.

Runs only in the short-lived child process that opened the file. Everything is asked single-threaded, because a forest
on several threads adds its trees in the order in which they finish.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keelway.errors import InvalidInput
from keelway.publish.answers import Answers
from keelway.publish.rows import Rows
from keelway.types import Array

if TYPE_CHECKING:
    import pandas as pd


class Original:
    """A fitted scikit-learn estimator. ``columns`` are its features in its own order."""

    def __init__(self, estimator: Any, columns: tuple[str, ...]) -> None:
        from sklearn.base import is_classifier

        self.estimator = estimator
        self.columns = columns
        self.is_classifier = is_classifier(estimator) and hasattr(estimator, "classes_")
        self.has_probabilities = self.is_classifier and hasattr(estimator, "predict_proba")
        self._names = hasattr(estimator, "feature_names_in_")
        scores = "predict_proba" if self.has_probabilities else "decision_function"
        self._scores = getattr(estimator, scores, None) if self.is_classifier else None
        run_alone(estimator)

    def labels(self, rows: Rows) -> Array:
        """The predicted classes (classifiers) or values, [n] or [n, m]; zeros or empty texts for refused rows."""
        return _where_accepted(self._labels, rows.frame())[0]

    def values(self, rows: Rows) -> Array:
        """Probabilities or scores [n, k], or predicted values [n, m], as float64; zeros for refused rows."""
        return _where_accepted(self._values, rows.frame())[0]

    def answers(self, frame: pd.DataFrame) -> Answers:
        """Labels and values for every row of ``frame``; rows that the model refuses are marked, not raised."""
        labels, accepted = _where_accepted(self._labels, frame)
        if not self.is_classifier:
            return Answers(None, _two_dimensional(labels), accepted)
        if self._scores is None:
            return Answers(labels, np.zeros((len(frame), 0)), accepted)
        values, also = _where_accepted(self._values, frame)
        return Answers(labels, values, accepted & also)

    def ask_one(self, given: Any) -> object:
        """What a caller of the original would call: probabilities if it has them, the prediction if not."""
        with _quiet():
            ask = self._scores if self._scores is not None and self.has_probabilities else self.estimator.predict
            return ask(given)

    def given(self, frame: pd.DataFrame) -> Any:
        """``frame`` as the estimator was fitted: by name, or as a bare array of its columns."""
        chosen = frame[list(self.columns)]
        return chosen if self._names else chosen.to_numpy()

    def _labels(self, frame: pd.DataFrame) -> Array:
        return np.asarray(self.estimator.predict(self.given(frame)))

    def _values(self, frame: pd.DataFrame) -> Array:
        ask = self.estimator.predict if self._scores is None else self._scores
        return _two_dimensional(np.asarray(ask(self.given(frame))))


def thresholds_of(estimator: Any, columns: tuple[str, ...]) -> dict[str, Array]:
    """The thresholds of trees that read the features themselves, by column; empty for anything else."""
    trees = np.ravel(np.asarray(getattr(estimator, "estimators_", [estimator]), dtype=object))
    parts = [(member.tree_.feature, member.tree_.threshold) for member in trees if hasattr(member, "tree_")]
    if getattr(estimator, "_preprocessor", None) is None:
        for predictor in (one for stage in getattr(estimator, "_predictors", ()) for one in stage):
            inner = predictor.nodes[~predictor.nodes["is_leaf"].astype(bool)]
            parts.append((inner["feature_idx"].astype(np.int64), inner["num_threshold"]))
    if not parts:
        return {}
    features, thresholds = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    finite = np.isfinite(thresholds) & (features >= 0)
    return {
        column: thresholds[finite & (features == position)]
        for position, column in enumerate(columns)
        if (finite & (features == position)).any()
    }


def _where_accepted(ask: Callable[[pd.DataFrame], Array], frame: pd.DataFrame) -> tuple[Array, Array]:
    """What ``ask`` answers for the rows it accepts (zeros, or empty text, elsewhere), and which rows those are."""
    found: dict[int, Array] = {}
    pending = [(0, len(frame))]
    while pending:
        start, stop = pending.pop()
        try:
            with _quiet():
                found[start] = ask(frame.iloc[start:stop])
        except Exception:  # noqa: BLE001 - the model's own code may raise anything for a row it does not like
            if stop - start > 1:
                middle = (start + stop) // 2
                pending += [(start, middle), (middle, stop)]
    if not found:
        raise InvalidInput(
            "the model refuses every row of the sample",
            hint="give the columns and types the model was trained on; --target names a column to leave out",
        )
    accepted = np.zeros(len(frame), bool)
    like = next(iter(found.values()))
    # Text of several widths has several dtypes.
    dtype = object if like.dtype == object else np.result_type(*found.values())
    every = np.zeros((len(frame), *like.shape[1:]), dtype)
    for start, part in found.items():
        every[start : start + len(part)] = part
        accepted[start : start + len(part)] = True
    return every, accepted


def _two_dimensional(values: Array) -> Array:
    values = values.astype(np.float64)
    return values.reshape(-1, 1) if values.ndim == 1 else values


def run_alone(model: Any) -> None:
    """One job everywhere inside a fitted model: walked, because its parameters name the unfitted parts only."""
    pending, seen = [model], {id(model)}
    while pending:
        part = pending.pop()
        if isinstance(part, list | tuple | set):
            inner = list(part)
        elif isinstance(part, dict):
            inner = list(part.values())
        elif isinstance(part, np.ndarray):
            inner = list(part.ravel()) if part.dtype == object and part.size < 1_000_000 else []
        elif type(part).__module__.partition(".")[0] == "sklearn" and hasattr(part, "__dict__"):
            if "n_jobs" in vars(part):
                part.n_jobs = 1
            inner = list(vars(part).values())
        else:
            inner = []
        pending += [value for value in inner if id(value) not in seen]
        seen.update(map(id, inner))


def _quiet() -> warnings.catch_warnings[None]:
    return warnings.catch_warnings(action="ignore")
