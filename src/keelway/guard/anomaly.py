"""Rows unlike those of the sample: the detector of a version, compiled for its tensors and its policy.

The robust z-score of a row is above its threshold exactly where some value is outside an interval of its column; those
intervals are among the limits that every value is compared with anyway (``usual``). What is left for the usual row is
one distance and, where the push was asked for one, a run of an isolation forest. Called by ``validation.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from keelway.contract.anomaly import Detector, Isolation, filled
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
#: Of the score of a forest: a sum of leaves in float32.
_SLACK_ISOLATED: Final = 1 + 1e-6

Mask = npt.NDArray[np.bool_]


class _Part(NamedTuple):
    """One tensor's share. ``mean``, ``matrix`` and ``shift``, (its columns, classes times features), are 0 for columns
    that are none of the detector's; ``low`` and ``high`` are without limit there. Differences are whitened for all
    classes in one product; ``shift`` is what the mean of a class, in place of that of all, takes off them."""

    tensor: str
    mean: Array
    matrix: Array
    shift: Array
    low: Array
    high: Array

    def rows(self, inputs: Mapping[str, Array]) -> Array:
        array = inputs[self.tensor]
        return array.reshape(len(array), -1)

    def away(self, inputs: Mapping[str, Array], *, filled: bool) -> Array:
        """The whitened differences of the rows from the mean of all, (rows, classes times features). ``filled``: what
        is missing is the mean of each class."""
        difference = self.rows(inputs) - self.mean
        whitened: Array
        if not filled:
            whitened = difference @ self.matrix
            return whitened
        missing = np.isnan(difference).astype(self.shift.dtype)
        whitened = np.nan_to_num(difference) @ self.matrix + missing @ self.shift
        return whitened


class _Forest:
    """The isolation forest, over the columns of all tensors in the order of the detector's features."""

    def __init__(self, signature: ModelSignature, detector: Detector, isolation: Isolation, threshold: float) -> None:
        self._isolation, self._furthest = isolation, threshold * _SLACK_ISOLATED
        self._median = np.array(detector.median, np.float32)
        place = {name: position for position, name in enumerate(detector.features)}
        self._takes: list[tuple[str, list[int], list[int]]] = []
        for spec in signature.inputs:
            names = spec.columns or (spec.name,)
            columns = [column for column, name in enumerate(names) if name in place]
            if columns:
                self._takes.append((spec.name, columns, [place[names[column]] for column in columns]))

    def isolates(self, inputs: Mapping[str, Array]) -> Mask:
        """Which rows are alone too soon."""
        first = inputs[self._takes[0][0]]
        rows = np.empty((len(first), len(self._median)), np.float32)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, as in training
            for tensor, columns, places in self._takes:
                array = inputs[tensor]
                rows[:, places] = array.reshape(len(array), -1)[:, columns]
        mask: Mask = self._isolation(filled(rows, self._median)) > self._furthest
        return mask


class AnomalyCheck:
    """``usual`` maps a feature to the interval within which its value alone is not anomalous."""

    def __init__(
        self, signature: ModelSignature, rule: AnomalyRule, detector: Detector, isolation: Isolation | None = None
    ) -> None:
        """``isolation`` is the forest that ``detector`` names, if it names one."""
        values = dict(zip(detector.names, detector.thresholds(rule.false_positive_rate).values, strict=True))
        self._action = rule.action
        z = values["robust_z"] * _SLACK
        self.usual: Mapping[str, tuple[float, float]] = {
            name: (median - z * scale, median + z * scale)
            for name, median, scale in zip(detector.features, detector.median, detector.scale, strict=True)
        }
        self._furthest = values["mahalanobis"] ** 2 * _SLACK_SQUARED if "mahalanobis" in values else None
        self._forest: _Forest | None = None
        if isolation is not None:
            self._forest = _Forest(signature, detector, isolation, values["isolation_forest"])
        self._parts = [part for spec in signature.inputs if (part := _part(spec, detector, self.usual)) is not None]
        self._only = self._parts[0] if len(self._parts) == 1 else None
        self._features, self._volumes = len(detector.features), np.array(detector.volumes or (0.0,))
        self._offset: Array | None = None
        if detector.volumes:
            self._offset = reduce(np.add, (part.shift.sum(axis=0) for part in self._parts))
        places = range(0, len(self._volumes) * self._features, self._features)
        #: Where each class is in a row of whitened differences, and how far it reaches; the largest class is the first.
        self._reaches = [
            (slice(place, place + self._features), (self._furthest or 0.0) - volume)
            for place, volume in zip(places, self._volumes.tolist(), strict=True)
        ]

    @classmethod
    def of(
        cls,
        signature: ModelSignature,
        rule: AnomalyRule,
        detector: Detector | None,
        isolation: Isolation | None = None,
    ) -> AnomalyCheck | None:
        """``None`` where there is nothing to do."""
        if detector is None or rule.action == "off" or not signature.batched:
            return None
        return cls(signature, rule, detector, isolation)

    def passes(self, inputs: Mapping[str, Array]) -> bool:
        """Whether every row is near the others of the sample, as far as the values are known to be within ``usual``,
        none of them missing."""
        return self._is_near(inputs) and (self._forest is None or not self._forest.isolates(inputs).any())

    def _is_near(self, inputs: Mapping[str, Array]) -> bool:
        furthest, only = self._furthest, self._only
        if furthest is None:
            return True
        if only is None:
            return bool(self._distances(inputs, filled=False).max() <= furthest)
        rows = inputs[only.tensor]
        if len(rows) == 1:  # several times as fast without an axis of one
            away = (rows[0] - only.mean).dot(only.matrix)
            if self._offset is None:
                return bool(away.dot(away) <= furthest)
            return self._near_a_class(away - self._offset)
        return bool(self._squared((rows - only.mean).dot(only.matrix)).max() <= furthest)

    def _near_a_class(self, away: Array) -> bool:
        for place, reach in self._reaches:
            one = away[place]
            if one.dot(one) <= reach:
                return True
        return False

    def _squared(self, away: Array) -> Array:
        """The square of the least distance of each row, from ``away``, (rows, classes times features)."""
        if self._offset is None:
            return np.einsum("ij,ij->i", away, away)  # type: ignore[no-any-return]
        apart = (away - self._offset).reshape(len(away), -1, self._features)
        squared: Array = (np.einsum("ikj,ikj->ik", apart, apart) + self._volumes).min(axis=1)
        return squared

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
        if self._forest is not None:
            found["isolation_forest"] = self._forest.isolates(inputs) & good
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
            return self._squared(away)


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
    whole = detector.ellipsoids
    classes = 1 if whole is None else len(whole.centres)
    mean, matrix, shift = np.zeros(width), np.zeros((width, classes * features)), np.zeros((width, classes * features))
    low, high = np.full(width, -np.inf), np.full(width, np.inf)
    for column, position in mine:
        mean[column] = detector.mean[position]
        low[column], high[column] = usual[columns[column]]
        if whole is not None:
            whitened = whole.matrices[:, :, position]
            matrix[column] = whitened.ravel()
            shift[column] = (whitened * (whole.centres[:, position, None] - mean[column])).ravel()
    with np.errstate(over="ignore"):
        tables = (mean.astype(dtype), matrix.astype(dtype), shift.astype(dtype))
        return _Part(spec.name, *tables, low.astype(limit), high.astype(limit))
