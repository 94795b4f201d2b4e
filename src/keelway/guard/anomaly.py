"""Rows unlike those of the sample: the detector of a version, compiled for its tensors and its policy.

The robust z-score of a row is above its threshold exactly where some value is outside an interval of its column; those
intervals are among the limits that every value is compared with anyway (``usual``). What is left for the usual row is
one distance. Called by ``validation.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from keelway.contract.anomaly import Detector
from keelway.contract.constraints import AnomalyRule
from keelway.contract.signature import ModelSignature
from keelway.errors import AnomalousInput, InvalidInput
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

#: The name of the detector of ``probing.py``.
PROBING: Final = "probing"

#: Thresholds are the scores of rows, computed elsewhere in another order and precision: rows like that one are no
#: alarms. What may be lost of a z-score in float64, and of a squared distance in float32.
_SLACK: Final = 1 + 1e-12
_SLACK_SQUARED: Final = 1 + 1e-5

Mask = npt.NDArray[np.bool_]


class _Part(NamedTuple):
    """One tensor's share. ``mean`` and ``matrix``, (its columns, features), are 0 for columns that are none of the
    detector's; ``low`` and ``high`` are without limit there."""

    tensor: str
    mean: Array
    matrix: Array
    low: Array
    high: Array

    def rows(self, inputs: Mapping[str, Array]) -> Array:
        array = inputs[self.tensor]
        return array.reshape(len(array), -1)

    def away(self, inputs: Mapping[str, Array], *, filled: bool) -> Array:
        """The whitened differences of the rows from the mean, (rows, features)."""
        difference = self.rows(inputs) - self.mean
        if filled:
            np.nan_to_num(difference, copy=False)
        whitened: Array = difference @ self.matrix
        return whitened


class AnomalyCheck:
    """``usual`` maps a feature to the interval within which its value alone is not anomalous."""

    def __init__(self, signature: ModelSignature, rule: AnomalyRule, detector: Detector) -> None:
        values = dict(zip(detector.names, detector.thresholds(rule.false_positive_rate).values, strict=True))
        self._action = rule.action
        z = values["robust_z"] * _SLACK
        self.usual: Mapping[str, tuple[float, float]] = {
            name: (median - z * scale, median + z * scale)
            for name, median, scale in zip(detector.features, detector.median, detector.scale, strict=True)
        }
        self._furthest = values["mahalanobis"] ** 2 * _SLACK_SQUARED if "mahalanobis" in values else None
        self._parts = [part for spec in signature.inputs if (part := _part(spec, detector, self.usual)) is not None]
        self._only = self._parts[0] if len(self._parts) == 1 else None

    @classmethod
    def of(cls, signature: ModelSignature, rule: AnomalyRule, detector: Detector | None) -> AnomalyCheck | None:
        """``None`` where there is nothing to do."""
        if detector is None or rule.action == "off" or not signature.batched:
            return None
        return cls(signature, rule, detector)

    def passes(self, inputs: Mapping[str, Array]) -> bool:
        """Whether every row is near the others of the sample, as far as the values are known to be within ``usual``. A
        missing value fails."""
        furthest, only = self._furthest, self._only
        if furthest is None:
            return True
        if only is None:
            return bool(self._distances(inputs, filled=False).max() <= furthest)
        rows = inputs[only.tensor]
        if len(rows) == 1:  # several times as fast without an axis of one
            away = (rows[0] - only.mean).dot(only.matrix)
            return bool(away.dot(away) <= furthest)
        away = (rows - only.mean).dot(only.matrix)
        return bool(np.einsum("ij,ij->i", away, away).max() <= furthest)

    def inspect(
        self, inputs: Mapping[str, Array], rows: int, errors: dict[int, InvalidInput], tags: list[str]
    ) -> Mapping[str, int]:
        """How many of the ``rows`` that are not among ``errors`` each detector finds anomalous. By the policy they are
        tagged, or added to ``errors``."""
        good = np.ones(rows, np.bool_)
        good[list(errors)] = False
        found = {"robust_z": self._outside(inputs) & good}
        if self._furthest is not None:
            found["mahalanobis"] = (self._distances(inputs, filled=True) > self._furthest) & good
        counts = {name: int(mask.sum()) for name, mask in found.items() if mask.any()}
        if self._action == "tag":
            tags.extend(map(tag, counts))
        elif self._action == "reject":
            for row in np.flatnonzero(reduce(np.logical_or, found.values())).tolist():
                errors[row] = AnomalousInput("its values are unlike those that the model was made for")
        return counts

    def _outside(self, inputs: Mapping[str, Array]) -> Mask:
        masks: list[Mask] = []
        for part in self._parts:
            rows = part.rows(inputs)
            outside: Mask = (rows < part.low) | (rows > part.high)
            masks.append(np.any(outside, axis=1))
        return reduce(np.logical_or, masks)

    def _distances(self, inputs: Mapping[str, Array], *, filled: bool) -> Array:
        """Squared, one for each row. ``filled``: a missing value adds nothing to it; otherwise it makes NaN of it."""
        with np.errstate(over="ignore", invalid="ignore"):  # in rows that are refused anyway
            away = reduce(np.add, (part.away(inputs, filled=filled) for part in self._parts))
            squared: Array = np.einsum("ij,ij->i", away, away)
        return squared


def tag(detector: str) -> str:
    """What the answer and the record of an anomalous row say."""
    return detector if detector == PROBING else f"anomaly:{detector}"


def recorded_tags(tags: Sequence[str], anomalies: Mapping[str, int]) -> Sequence[str]:
    """``tags``, and one for each of ``anomalies`` that is not among them: what the caller was not told."""
    return tuple(dict.fromkeys((*tags, *map(tag, anomalies)))) if anomalies else tags


def _part(spec: TensorSpec, detector: Detector, usual: Mapping[str, tuple[float, float]]) -> _Part | None:
    columns: Sequence[str] = spec.columns or (spec.name,)
    place = {name: position for position, name in enumerate(detector.features)}
    mine = [(column, place[name]) for column, name in enumerate(columns) if name in place]
    if not mine:
        return None
    # Limits are rounded as ``numbers.py`` rounds them. Integers are subtracted as float64, as NumPy would do anyway.
    floats = np.dtype(np.float64)
    limit = NUMPY_DTYPES[spec.datatype] if spec.datatype.startswith("FP") else floats
    dtype = limit if limit.itemsize >= 4 else floats
    width, features = len(columns), len(detector.features)
    mean, matrix = np.zeros(width), np.zeros((width, features))
    low, high = np.full(width, -np.inf), np.full(width, np.inf)
    whole = detector.matrix
    for column, position in mine:
        mean[column] = detector.mean[position]
        low[column], high[column] = usual[columns[column]]
        if whole is not None:
            matrix[column] = whole[:, position]
    with np.errstate(over="ignore"):
        return _Part(spec.name, mean.astype(dtype), matrix.astype(dtype), low.astype(limit), high.astype(limit))
