"""Whether a new version answers as an old one did: the golden rows of the old one, answered by the new, beside what is
stored of the old one's answers.

Numbers are compared by ``tensor_proof.py``: relative to their own size or to the spread of that output, whichever is
larger. Text and whole numbers have to be equal.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import numpy as np

from keelway.contract.compatibility import Reason
from keelway.errors import KeelwayError, ModelFailed
from keelway.publish.golden import Columns
from keelway.publish.tensor_proof import differences, scales_of
from keelway.types import Array

#: The largest difference of equivalent answers, where both versions were not proved with a larger one.
TOLERANCE: Final = 1e-5


class Behaviour(msgspec.Struct, frozen=True):
    """``rows`` were answered by both; ``refused`` by the old one alone. ``labels`` of them have another text or whole
    number, ``beyond`` a number that differs by more than ``tolerance``, ``differ`` one or both; ``worst`` is the
    largest difference."""

    rows: int
    refused: int
    differ: int
    labels: int
    beyond: int
    worst: float
    tolerance: float

    @property
    def equivalent(self) -> bool:
        return not (self.refused or self.differ)


class RowByRow(NamedTuple):
    """Which rows [a] ``differ`` at all, and which have other ``labels``: another text or whole number."""

    differ: Array
    labels: Array


def compare_answers(old: Columns, new: Columns, accepted: Array, tolerance: float) -> tuple[Behaviour, RowByRow]:
    """``old`` [n, ...] are the answers to all rows, ``new`` to those that are ``accepted`` [n]; by output. What only
    one of them has is no question of behaviour. Also answers which of the accepted rows they are.

    Raises ``ModelFailed`` if an output has another shape, or nothing is in both.
    """
    shared = [name for name in old if name in new]
    if not shared:
        raise ModelFailed("the two versions have no output in common")
    if not accepted.any():
        raise ModelFailed("no row is answered by both")
    before = {name: _plain(old[name][accepted]) for name in shared}
    after = {name: _plain(new[name]) for name in shared}
    if any((before[name].dtype.kind == "f") != (after[name].dtype.kind == "f") for name in shared):
        raise ModelFailed("an output is of another kind")
    distance, other = differences([before], [after], scales_of([before]))
    beyond = distance > tolerance
    differ = beyond | other
    found = Behaviour(
        len(distance),
        int((~accepted).sum()),
        int(differ.sum()),
        int(other.sum()),
        int(beyond.sum()),
        float(distance.max()),
        tolerance,
    )
    return found, RowByRow(differ, other)


def tolerance_of(old: float, new: float) -> float:
    """By what the two versions were proved with: two conversions of one model may differ by as much."""
    return max(TOLERANCE, min(old, new))


def behaviour_reasons(found: Behaviour) -> list[Reason]:
    """What the comparison asks of the version."""
    reasons = []
    if found.refused:
        message = f"{found.refused} of {found.rows + found.refused} rows of its golden sample are refused now"
        reasons.append(Reason("major", "rows_refused", "", message))
    if found.equivalent:
        message = f"all {found.rows} rows of its golden sample are answered alike ({_worst(found)})"
        return [Reason("patch", "equivalent", "", message)]
    if found.differ:
        parts = [f"{found.labels} with another label"] if found.labels else []
        parts += [f"{found.beyond} with another number"] if found.beyond else []
        message = f"of {found.rows} rows of its golden sample, {' and '.join(parts)} ({_worst(found)})"
        reasons.append(Reason("minor", "predictions_differ", "", message))
    return reasons


def all_refused(rows: int) -> list[Reason]:
    """What it asks of the version that none of ``rows`` golden rows is answered any more."""
    return [Reason("major", "rows_refused", "", f"all {rows} rows of its golden sample are refused now")]


def unknown(why: str) -> list[Reason]:
    """Nothing says that predictions are the same, so they count as different."""
    return [Reason("minor", "behaviour_unknown", "", why)]


def in_words(error: KeelwayError) -> str:
    return f"its golden sample could not be answered: {error.message}"


def _worst(found: Behaviour) -> str:
    return f"worst difference {found.worst:.1e}, allowed {found.tolerance:g}"


def _plain(column: Array) -> Array:
    """Texts as text, whatever they came as."""
    if column.dtype.kind != "O":
        return column
    texts = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in column.flat]
    return np.array(texts, str).reshape(column.shape)
