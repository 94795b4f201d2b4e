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
        self.estimator = estimator
        self.columns = columns
        self._names = hasattr(estimator, "feature_names_in_")
        self._scores = next(
            (getattr(estimator, name) for name in ("predict_proba", "decision_function") if hasattr(estimator, name)), None
        )
        self.is_classifier = hasattr(estimator, "classes_") and hasattr(estimator, "predict")
        self.has_probabilities = self.is_classifier and hasattr(estimator, "predict_proba")
        _run_alone(estimator)

    def labels(self, rows: Rows) -> Array:
        """The predicted classes (classifiers) or values, [n] or [n, m]."""
        with _quiet():
            return np.asarray(self.estimator.predict(self.given(rows.frame())))

    def values(self, rows: Rows) -> Array:
        """Probabilities or scores [n, k], or predicted values [n, m], as float64."""
        return self._values(rows.frame())

    def answers(self, frame: pd.DataFrame) -> Answers:
        """Labels and values for every row of ``frame``; rows that the model refuses are marked, not raised."""
        rows = len(frame)
        labels, accepted = _where_accepted(lambda part: np.asarray(self.estimator.predict(self.given(part))), frame)
        values, also = _where_accepted(self._values, frame) if self._scores is not None else (None, accepted)
        accepted = accepted & also
        if not self.is_classifier:
            values, labels = _two_dimensional(labels), None
        empty = np.zeros((rows, 0))
        return Answers(labels, empty if values is None else values, accepted)

    def given(self, frame: pd.DataFrame) -> Any:
        """``frame`` as the estimator was fitted: by name, or as a bare array of its columns."""
        chosen = frame[list(self.columns)]
        return chosen if self._names else chosen.to_numpy()

    def _values(self, frame: pd.DataFrame) -> Array:
        ask = self._scores if self.is_classifier and self._scores is not None else self.estimator.predict
        with _quiet():
            return _two_dimensional(np.asarray(ask(self.given(frame))))


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
    every = np.zeros((len(frame), *like.shape[1:]), dtype=np.result_type(*found.values()) if like.dtype != object else object)
    for start, part in found.items():
        every[start : start + len(part)] = part
        accepted[start : start + len(part)] = True
    return every, accepted


def _two_dimensional(values: Array) -> Array:
    values = values.astype(np.float64)
    return values.reshape(-1, 1) if values.ndim == 1 else values


def _run_alone(estimator: Any) -> None:
    """One job everywhere inside ``estimator``."""
    if not hasattr(estimator, "get_params"):
        return
    jobs = {name: 1 for name in estimator.get_params(deep=True) if name.rpartition("__")[2] == "n_jobs"}
    estimator.set_params(**jobs)


def _quiet() -> warnings.catch_warnings[None]:
    return warnings.catch_warnings(action="ignore")
