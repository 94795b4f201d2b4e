"""What one feature alone reaches of the model's score, above what no feature reaches.

Numbers are taken as they are; text, and numbers of few values, by what the truth is among the *other* rows of the same
value (five folds), so that no row tells its own truth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keelway.checks.scoring import METRICS, Scored, around_the_mean, squared_errors
from keelway.contract.sample import column_kind
from keelway.statistics import ranking
from keelway.statistics.estimates import Floats, Ratio

if TYPE_CHECKING:
    import pandas as pd

_FOLDS = 5
#: Numbers of fewer values are also taken as codes.
_FEW = 50


class Alone(NamedTuple):
    """``share`` of the score above chance, and how many standard errors it is above the lawful share of it."""

    share: float
    z: float


def alone(column: pd.Series[Any], rows: Scored, lawful: float) -> Alone | None:
    """What ``column``, (rows,), reaches of the score of ``rows``; ``None`` where there is no score above chance, or too
    few rows. ``z`` tests that it is at most the share ``lawful``."""
    if rows.rows < 30 or (rows.kind == "binary" and METRICS["accuracy"].missing(rows)):
        return None
    readings = list(_readings(column, rows))
    if not readings:
        return None
    found = [_ranked(reading, rows, lawful) for reading in readings] if rows.kind == "binary" else []
    found += [_explained(reading, rows, lawful) for reading in readings] if rows.kind == "regression" else []
    found += [_guessed(reading, rows, lawful) for reading in readings] if rows.kind == "multiclass" else []
    there = [one for one in found if one is not None]
    return max(there, key=lambda one: one.share) if there else None


def _readings(column: pd.Series[Any], rows: Scored) -> list[Floats]:
    """The column as numbers, (rows,) each."""
    kind = column_kind(column)
    readings = []
    if kind != "text":
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        finite = values[np.isfinite(values)]
        readings.append(np.nan_to_num(values, nan=float(np.median(finite)) if len(finite) else 0.0))
    if kind == "text" or column.nunique() <= _FEW:
        _, codes = np.unique(column.astype(str).to_numpy(dtype=str), return_inverse=True)
        readings.append(codes.astype(np.float64) if rows.kind == "multiclass" else _encoded(codes, rows))
    return readings


def _encoded(codes: np.ndarray[Any, Any], rows: Scored) -> Floats:
    """The mean of the truth among the rows of the same code in other folds, drawn towards the mean of all."""
    truth = rows.happened.astype(np.float64) if rows.kind == "binary" else rows.truth
    folds = np.arange(len(codes)) % _FOLDS
    encoded = np.empty(len(codes))
    for fold in range(_FOLDS):
        others = folds != fold
        counts = np.bincount(codes[others], minlength=codes.max() + 1)
        sums = np.bincount(codes[others], weights=truth[others], minlength=codes.max() + 1)
        encoded[~others] = ((sums + truth[others].mean()) / (counts + 1))[codes[~others]]
    return encoded


def _ranked(reading: Floats, rows: Scored, lawful: float) -> Alone | None:
    """By areas under the ROC curve, in whichever direction is better; above 0.5."""
    score = rows.score
    area = float(ranking.areas(rows.happened, score[None, :])[0][0])
    if area <= 0.5:
        return None
    if float(ranking.areas(rows.happened, reading[None, :])[0][0]) < 0.5:
        reading = -reading
    found = ranking.difference(rows.happened, reading, score, lawful)
    # (own − ½) − lawful · (area − ½), from own − lawful · area.
    return Alone((found.value + lawful * area - 0.5) / (area - 0.5), found.z(0.5 - lawful * 0.5))


def _explained(reading: Floats, rows: Scored, lawful: float) -> Alone | None:
    """By the squared errors of a straight line, and of the model, below those of the mean."""
    constant = around_the_mean(rows)
    gain = constant - squared_errors(rows)
    if gain.mean() <= 0 or np.ptp(reading) == 0:
        return None
    line = np.polynomial.Polynomial.fit(reading, rows.truth, 1)
    own = constant - (line(reading) - rows.truth) ** 2
    return Alone(float(own.mean() / gain.mean()), Ratio(own - lawful * gain).z(0.0))


def _guessed(reading: Floats, rows: Scored, lawful: float) -> Alone | None:
    """By how often the most frequent class of the same value, or tenth of the values, in other folds is right."""
    _, classes = np.unique(rows.truth, return_inverse=True)
    constant = (classes == np.bincount(classes).argmax()).astype(np.float64)
    gain = rows.right - constant
    if gain.mean() <= 0:
        return None
    edges = np.unique(np.quantile(reading, np.linspace(0, 1, 11)[1:-1]))
    codes = np.searchsorted(edges, reading)
    folds = np.arange(len(codes)) % _FOLDS
    own = np.empty(len(codes))
    for fold in range(_FOLDS):
        others = folds != fold
        table = np.zeros((len(edges) + 1, classes.max() + 1))
        np.add.at(table, (codes[others], classes[others]), 1.0)
        own[~others] = table.argmax(axis=1)[codes[~others]] == classes[~others]
    own -= constant
    return Alone(float(own.mean() / gain.mean()), Ratio(own - lawful * gain).z(0.0))
