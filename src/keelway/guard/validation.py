"""Validation of bound inputs: what the signature and the declared constraints forbid is refused, and what merely lies
outside the observed baseline is tagged.

Compiled once per version. The usual request, all values present and inside, is decided by one vectorised comparison
per tensor; only when that fails is anything looked at value by value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.constraints import Constraint, Policy
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import InvalidInput, RowsRefused
from keelway.types import NUMPY_DTYPES, Array, BoundRequest, InferenceRequest, RowRequest, TensorSpec

Mask = npt.NDArray[np.bool_]


class Validator:
    """Checks the inputs of one version of a model."""

    def __init__(self, signature: ModelSignature, policy: Policy, baseline: Baseline | None) -> None:
        features = {feature.name: feature for feature in signature.features}
        constraints = {constraint.feature: constraint for constraint in policy.constraints}
        observed = {feature.name: feature for feature in baseline.features} if baseline else {}
        self._checks: list[tuple[str, _NumberCheck | _TextCheck]] = []
        for spec in signature.inputs:
            columns = [features[name] for name in spec.columns or (spec.name,)]
            check = _TextCheck if spec.datatype == "BYTES" else _NumberCheck
            self._checks.append((spec.name, check(spec, columns, constraints, observed)))

    def validate(self, bound: BoundRequest, *, atomic: bool) -> BoundRequest:
        """``bound``, less the rows that break a rule, plus tags. Raises ``InvalidInput`` naming the feature when the
        request is ``atomic`` or no row is left."""
        inputs = bound.inputs
        for name, check in self._checks:
            if not check.passes(inputs[name]):
                return self._look_closely(bound, atomic)
        return bound

    def _look_closely(self, bound: BoundRequest, atomic: bool) -> BoundRequest:
        tags: list[str] = list(bound.tags)
        errors: dict[int, InvalidInput] = {}
        for name, check in self._checks:
            array = bound.inputs[name]
            if not check.passes(array):
                rows = 1 if bound.rows is None else bound.rows
                check.inspect(array.reshape(rows, -1), errors, tags)
        if not errors:
            return _replace(bound, bound.inputs, bound.rows, bound.row_errors, bound.positions, tags)
        if atomic or bound.rows is None:
            row, error = min(errors.items())
            where = f"row {row}: " if bound.rows is not None and bound.rows > 1 else ""
            raise InvalidInput(where + error.message, field=error.field)
        return without_rows(bound, errors, tags)


class _NumberCheck:
    """Limits of a numeric tensor, per column. Observed and declared limits meet in one lower and one upper bound."""

    def __init__(
        self,
        spec: TensorSpec,
        columns: Sequence[Feature],
        constraints: Mapping[str, Constraint],
        observed: Mapping[str, ObservedFeature],
    ) -> None:
        self._columns = columns
        self._nullable = np.array([column.nullable for column in columns])
        self._floating = spec.datatype.startswith("FP")
        declared = [constraints.get(column.name, Constraint(column.name)) for column in columns]
        seen = [observed.get(column.name, ObservedFeature(column.name, 0)) for column in columns]
        # The door rounds values to the tensor's datatype, so limits are rounded with them: 0.1 is inside "at most 0.1".
        dtype = NUMPY_DTYPES[spec.datatype] if self._floating else np.dtype(np.float64)
        most = float(np.finfo(dtype).max)
        self._declared_low = _bounds([item.minimum for item in declared], -most, dtype)
        self._declared_high = _bounds([item.maximum for item in declared], most, dtype)
        self._seen_low = _bounds([item.minimum for item in seen], -most, dtype)
        self._seen_high = _bounds([item.maximum for item in seen], most, dtype)
        # Of the shape of one row as it arrives: NumPy compares equal shapes in half the time of broadcast ones.
        shape = (1, -1) if spec.columns else (-1,)
        self._low: Array = np.maximum(self._declared_low, self._seen_low).reshape(shape)
        self._high: Array = np.minimum(self._declared_high, self._seen_high).reshape(shape)
        unlimited = bool((self._low == -most).all() and (self._high == most).all())
        self._limits = "range" if not unlimited else "finite" if self._floating else "none"

    def passes(self, array: Array) -> bool:
        """Whether every value is present, finite and inside every limit. NaN and infinities fail."""
        if self._limits == "none":
            return True
        if self._limits == "finite":
            return bool(np.isfinite(array).all())
        # Looking for a zero byte is a third faster than ``all`` on one row, and as fast on many.
        return b"\0" not in ((array >= self._low) & (array <= self._high)).tobytes()

    def inspect(self, rows: Array, errors: dict[int, InvalidInput], tags: list[str]) -> None:
        """Add the first error of each bad row to ``errors``, and the tags of the batch to ``tags``."""
        if self._floating:
            self._refuse(np.isnan(rows) & ~self._nullable, "is missing and may not be", errors)
            self._refuse(np.isinf(rows), "is infinite or too large", errors)
        self._refuse(
            (rows < self._declared_low) | (rows > self._declared_high), "is outside its declared range", errors
        )
        outside = ((rows < self._seen_low) | (rows > self._seen_high)).any(axis=0)
        tags.extend(f"out_of_range:{self._feature(position)}" for position in np.flatnonzero(outside).tolist())

    def _refuse(self, bad: Mask, message: str, errors: dict[int, InvalidInput]) -> None:
        if bad.any():
            for row, position in zip(*(axis.tolist() for axis in np.nonzero(bad)), strict=True):
                name = self._feature(position)
                errors.setdefault(row, InvalidInput(f"{name!r} {message}", field=name))

    def _feature(self, position: int) -> str:
        return self._columns[position if len(self._columns) > 1 else 0].name


class _TextCheck:
    """Categories of a tensor of text, per column."""

    def __init__(
        self,
        spec: TensorSpec,
        columns: Sequence[Feature],
        constraints: Mapping[str, Constraint],
        observed: Mapping[str, ObservedFeature],
    ) -> None:
        self._columns = columns
        self._declared = [frozenset(_categories(constraints.get(column.name))) for column in columns]
        self._seen = [_seen_categories(observed.get(column.name)) for column in columns]
        # What needs no second look: a text that is declared and seen, or any text where nothing limits it.
        self._plain = [_both(declared, seen) for declared, seen in zip(self._declared, self._seen, strict=True)]

    def passes(self, array: Array) -> bool:
        """Whether every value is a text inside every list of categories."""
        plain = self._plain
        if len(plain) == 1:
            return all(_is_plain(value, plain[0]) for value in array.ravel().tolist())
        return all(_is_plain(value, texts) for row in array.tolist() for value, texts in zip(row, plain, strict=True))

    def inspect(self, rows: Array, errors: dict[int, InvalidInput], tags: list[str]) -> None:
        columns = self._columns if len(self._columns) > 1 else self._columns * rows.shape[1]
        for row, values in enumerate(rows.tolist()):
            for position, (column, value) in enumerate(zip(columns, values, strict=True)):
                problem = self._problem(column, position if len(self._columns) > 1 else 0, _text(value))
                if problem is not None:
                    errors.setdefault(row, InvalidInput(f"{column.name!r} {problem}", field=column.name))
        for column, seen, texts in zip(self._columns, self._seen, rows.T.tolist(), strict=False):
            if seen and not seen.issuperset(_text(value) for value in texts if value is not None):
                tags.append(f"unseen:{column.name}")

    def _problem(self, column: Feature, position: int, text: str | None) -> str | None:
        if text is None:
            return None if column.nullable else "is missing and may not be"
        declared = self._declared[position]
        return "is not one of its declared categories" if declared and text not in declared else None


def is_atomic(request: InferenceRequest) -> bool:
    """Whether one bad row fails the whole request."""
    return not isinstance(request, RowRequest) or request.atomic


def without_refused(request: InferenceRequest, bound: BoundRequest, refused: RowsRefused) -> BoundRequest:
    """``bound`` less the rows that the model itself refuses, so that it can answer the others. Raises ``InvalidInput``
    if the request is atomic or none is left."""
    if is_atomic(request) or bound.rows is None:
        raise refused
    return without_rows(bound, refused.errors)


def without_rows(
    bound: BoundRequest, errors: Mapping[int, InvalidInput], tags: Sequence[str] | None = None
) -> BoundRequest:
    """``bound`` without the rows in ``errors``, whose keys are positions in the arrays, not in the caller's order.

    ``tags`` take the place of its own. Raises the first of ``errors`` if no row is left."""
    rows = bound.rows or 0
    keep = [row for row in range(rows) if row not in errors]
    if not keep:
        raise min(errors.items())[1]
    positions = bound.positions if bound.positions is not None else range(rows)
    row_errors = {**bound.row_errors, **{positions[row]: error for row, error in errors.items()}}
    inputs = {name: array[keep] for name, array in bound.inputs.items()}
    kept = [positions[row] for row in keep]
    return _replace(bound, inputs, len(keep), row_errors, kept, bound.tags if tags is None else tags)


def _replace(
    bound: BoundRequest,
    inputs: Mapping[str, Array],
    rows: int | None,
    row_errors: Mapping[int, Exception],
    positions: Sequence[int] | None,
    tags: Sequence[str],
) -> BoundRequest:
    return BoundRequest(inputs, rows, row_errors, positions, tuple(dict.fromkeys(tags)))


def _bounds(limits: Sequence[float | None], absent: float, dtype: np.dtype[Any]) -> Array:
    # A limit beyond the datatype clips to its largest number, not to infinity: infinities must never be inside.
    return np.clip([absent if limit is None else limit for limit in limits], -abs(absent), abs(absent)).astype(dtype)


def _categories(constraint: Constraint | None) -> Sequence[str]:
    return constraint.categories if constraint else ()


def _seen_categories(observed: ObservedFeature | None) -> frozenset[str]:
    return frozenset() if observed is None or observed.categories_cut else frozenset(observed.categories)


def _both(declared: frozenset[str], seen: frozenset[str]) -> frozenset[str] | None:
    """The texts in every list that there is; ``None`` when there is no list."""
    return declared & seen if declared and seen else declared or seen or None


def _is_plain(value: Any, texts: frozenset[str] | None) -> bool:
    # Bytes are looked at only where a list says what they may be: a picture is not worth decoding as text.
    if texts is None:
        return type(value) is str or type(value) is bytes
    return type(value) is str and value in texts


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return bytes(value).decode(errors="replace")
