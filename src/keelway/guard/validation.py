"""Validation of bound inputs: what the signature forbids is refused, what the declared constraints forbid is refused,
clipped or flagged, and what is merely unlike the sample is tagged.

Compiled once per version and policy. The usual request, all values present and inside, is decided by one vectorised
comparison per tensor, one distance and perhaps a forest; only when that fails is anything looked at value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from keelway.contract.anomaly import Detector, Isolation
from keelway.contract.baseline import Baseline
from keelway.contract.constraints import Policy
from keelway.contract.signature import ModelSignature
from keelway.errors import InvalidInput, RowsRefused
from keelway.guard.anomaly import AnomalyCheck
from keelway.guard.numbers import Limits, NumberCheck
from keelway.guard.probing import ProbingWatch
from keelway.guard.texts import TextCheck
from keelway.types import Array, BoundRequest, InferenceRequest, RowRequest


class Validator:
    """Checks the inputs of one version of a model under one policy. ``detector`` is what its push has learned of rows
    as a whole, ``isolation`` its forest if it has one. ``now`` is a monotonic clock in seconds."""

    def __init__(
        self,
        signature: ModelSignature,
        policy: Policy,
        baseline: Baseline | None,
        detector: Detector | None = None,
        now: Callable[[], float] = monotonic,
        isolation: Isolation | None = None,
    ) -> None:
        features = {feature.name: feature for feature in signature.features}
        self._anomaly = AnomalyCheck.of(signature, policy.anomaly, detector, isolation)
        self._probing = ProbingWatch.of(signature, policy.probing, detector, now)
        limits = Limits.of(policy.constraints, baseline, self._anomaly.usual if self._anomaly else {})
        self._checks: list[tuple[str, NumberCheck | TextCheck]] = []
        for spec in signature.inputs:
            columns = [features[name] for name in spec.columns or (spec.name,)]
            check = TextCheck if spec.datatype == "BYTES" else NumberCheck
            self._checks.append((spec.name, check(spec, columns, limits)))

    @property
    def usual(self) -> Callable[[Mapping[str, Array]], bool] | None:
        """Whether ``validate`` would let rows pass as they are, of however many requests. ``None`` where it also
        watches who sends them."""
        return self._is_usual if self._probing is None else None

    def validate(self, bound: BoundRequest, *, atomic: bool, client: str = "") -> BoundRequest:
        """``bound``, less the rows that break a rule, with values clipped where that is declared, plus tags. Raises
        ``InvalidInput`` naming the feature when the request is ``atomic`` or no row is left, and ``Probing`` for a
        ``client`` that may not go on."""
        checked = bound if self._is_usual(bound.inputs) else self._look_closely(bound, atomic)
        return checked if self._probing is None else self._probing.watch(checked, client)

    def _is_usual(self, inputs: Mapping[str, Array]) -> bool:
        for name, check in self._checks:
            if not check.passes(inputs[name]):
                return False
        return self._anomaly is None or self._anomaly.passes(inputs)

    def _look_closely(self, bound: BoundRequest, atomic: bool) -> BoundRequest:
        tags: list[str] = list(bound.tags)
        errors: dict[int, InvalidInput] = {}
        inputs = dict(bound.inputs)
        rows = 1 if bound.rows is None else bound.rows
        for name, check in self._checks:
            array = inputs[name]
            if not check.passes(array):
                clipped = check.inspect(array.reshape(rows, -1), errors, tags)
                if clipped is not None:
                    inputs[name] = clipped.reshape(array.shape)
        found: Mapping[str, int] = {}
        if self._anomaly is not None and len(errors) < rows:
            found = self._anomaly.inspect(inputs, rows, errors, tags)
        checked = _replace(bound, inputs, bound.rows, bound.row_errors, bound.positions, tags, found)
        if not errors:
            return checked
        if not atomic and bound.rows is not None and len(errors) < rows:
            return without_rows(checked, errors)
        row, error = min(errors.items())
        where = f"row {row}: " if atomic and bound.rows is not None and bound.rows > 1 else ""
        raised = type(error)(where + error.message, field=error.field)
        raised.anomalies = found
        raise raised


def is_atomic(request: InferenceRequest) -> bool:
    """Whether one bad row fails the whole request."""
    return not isinstance(request, RowRequest) or request.atomic


def without_refused(request: InferenceRequest, bound: BoundRequest, refused: RowsRefused) -> BoundRequest:
    """``bound`` less the rows that the model itself refuses, so that it can answer the others. Raises ``InvalidInput``
    if the request is atomic or none is left."""
    if is_atomic(request) or bound.rows is None:
        raise refused
    return without_rows(bound, refused.errors)


def without_rows(bound: BoundRequest, errors: Mapping[int, InvalidInput]) -> BoundRequest:
    """``bound`` without the rows in ``errors``, whose keys are positions in the arrays, not in the caller's order.

    Raises the first of ``errors`` if no row is left."""
    rows = bound.rows or 0
    keep = [row for row in range(rows) if row not in errors]
    if not keep:
        raise min(errors.items())[1]
    positions = bound.positions if bound.positions is not None else range(rows)
    row_errors = {**bound.row_errors, **{positions[row]: error for row, error in errors.items()}}
    inputs = {name: array[keep] for name, array in bound.inputs.items()}
    kept = [positions[row] for row in keep]
    return _replace(bound, inputs, len(keep), row_errors, kept, bound.tags, bound.anomalies)


def _replace(
    bound: BoundRequest,
    inputs: Mapping[str, Array],
    rows: int | None,
    row_errors: Mapping[int, Exception],
    positions: Sequence[int] | None,
    tags: Sequence[str],
    anomalies: Mapping[str, int],
) -> BoundRequest:
    return BoundRequest(inputs, rows, row_errors, positions, tuple(dict.fromkeys(tags)), anomalies)
