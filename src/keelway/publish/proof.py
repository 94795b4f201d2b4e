"""The judgement of a candidate: its answers beside the original's, row by row. Pure; it runs nothing.

A label must be equal on every row. Probabilities may differ by ``tolerance`` in absolute terms. Scores and predicted
values may differ by ``tolerance`` relative to the larger of the value itself and the spread (standard deviation) of
the original's answers on the sample, since a difference means nothing without the scale of what is predicted.
"""

from __future__ import annotations

import msgspec
import numpy as np

from keelway.publish.answers import Answers
from keelway.types import Array


class Comparison(msgspec.Struct, frozen=True):
    """How far a candidate is from the original on ``rows`` rows (those the original accepts).

    ``label_differences`` counts rows with another label. ``worst_difference`` is the largest difference of a value, in
    the unit the module describes, at row ``worst_row`` (a position, sample first, then perturbed rows); ``beyond`` is
    the share of rows that differ by more than the tolerance. ``refused`` counts rows that the original refuses.
    """

    rows: int
    label_differences: int
    worst_difference: float
    worst_row: int
    beyond: float
    refused: int

    @property
    def holds(self) -> bool:
        return self.rows > 0 and self.label_differences == 0 and self.beyond == 0

    def at(self, positions: Array) -> Comparison:
        """The same with ``worst_row`` counted in a larger set of rows, of which these were at ``positions``."""
        return msgspec.structs.replace(self, worst_row=int(positions[self.worst_row]))


def compare(original: Answers, candidate: Answers, scale: Array | None, tolerance: float) -> Comparison:
    """``scale`` [k] is the spread of the original's values (``spread``); None for probabilities."""
    rows = np.flatnonzero(original.accepted)
    differences = _differences(original.values[rows], candidate.values[rows], scale)
    labels = 0
    wrong = np.zeros(len(rows), bool)
    if original.labels is not None:
        wrong = _texts(original.labels[rows]) != _texts(np.asarray(candidate.labels)[rows])
        labels = int(wrong.sum())
    # A wrong label is the worst difference there is, whatever the values say.
    worst = int(np.argmax(np.where(wrong, np.inf, differences))) if len(rows) else 0
    return Comparison(
        rows=len(rows),
        label_differences=labels,
        worst_difference=float(differences.max(initial=0.0)),
        worst_row=int(rows[worst]) if len(rows) else 0,
        beyond=float((differences > tolerance).mean()) if len(rows) else 0.0,
        refused=len(original) - len(rows),
    )


def spread(values: Array) -> Array:
    """The standard deviation of each column of ``values`` [n, k] over its finite values; 1 where there is none."""
    found = np.ones(values.shape[1])
    for column in range(values.shape[1]):
        finite = values[np.isfinite(values[:, column]), column]
        deviation = finite.std() if len(finite) else 0.0
        found[column] = deviation if deviation > 0 else max(float(np.abs(finite).max(initial=0.0)), 1.0)
    return found


def _differences(original: Array, candidate: Array, scale: Array | None) -> Array:
    """The largest difference in each row, [n]; infinite where one side is not a number and the other is."""
    if not original.shape[1]:
        return np.zeros(len(original))
    with np.errstate(over="ignore", invalid="ignore"):
        # What float32 cannot hold arrives as infinite; that is the format's doing and no difference.
        rounded = original.astype(np.float32)
        same = (original == candidate) | (np.isinf(rounded) & (rounded == candidate))
        same |= np.isnan(original) & np.isnan(candidate)
        unit = np.ones_like(original) if scale is None else np.maximum(np.abs(original), scale)
        difference = np.abs(original - candidate) / unit
    difference[same] = 0.0
    difference[np.isnan(difference)] = np.inf
    worst: Array = difference.max(axis=1)
    return worst


def _texts(labels: Array) -> Array:
    """Labels in one form: 1, 1.0 and True of the same model are the same class, text stays text."""
    if labels.dtype.kind in "OUS":
        return labels.astype(str)
    return labels.astype(np.float64)
