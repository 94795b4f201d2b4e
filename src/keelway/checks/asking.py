"""Asking a version as a server would: rows go through the request line as bytes, and its answers come back as bytes.

What a server refuses is refused here, what it clips is clipped, and nothing is opened that it would not open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.materialise import read_manifest
from keelway.contract.sample import numbers
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import InvalidInput, Unsupported
from keelway.routing.snapshot import ServedVersion
from keelway.statistics.estimates import Floats

if TYPE_CHECKING:
    import pandas as pd

#: Rows sent at once.
_CHUNK = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A version that can be asked: ``answer`` takes a body of the people's format and gives the answer's."""

    name: str
    version: str
    model_digest: str
    signature: ModelSignature
    answer: Callable[[bytes], bytes]
    max_rows: int = _CHUNK
    size: int = 0
    policy_revision: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What came back. ``predictions``, (rows,), holds ``None`` where ``refused``; ``probabilities``, (rows, labels),
    NaN there, or is ``None`` altogether. ``fields`` are the features that refusals named."""

    predictions: npt.NDArray[Any]
    probabilities: Floats | None
    labels: Sequence[Any]
    refused: npt.NDArray[np.bool_]
    fields: Sequence[str] = ()


def subject_of(served: ServedVersion, answer: Callable[[bytes], bytes], blobs: BlobStore, max_rows: int) -> Subject:
    """The version that ``keelway.app.offline`` has loaded of ``blobs``."""
    size = sum(file.size for file in read_manifest(blobs, served.model_digest).files)
    names = (served.name, served.version, served.model_digest)
    return Subject(*names, served.signature, answer, max_rows, size, served.policy_revision)


class _Answer(msgspec.Struct):
    predictions: list[Any]
    probabilities: list[list[float] | None] | None = None
    labels: list[Any] = []
    errors: list[dict[str, Any]] = []


def ask(subject: Subject, frame: pd.DataFrame) -> Answers:
    """The answers to the rows of ``frame``, which holds a column for every feature; others are left out.

    Raises ``InvalidInput`` if a feature has no column, and ``Unsupported`` if a feature is itself a tensor."""
    predictions: list[Any] = []
    probabilities: list[Any] = []
    labels: Sequence[Any] = ()
    fields: dict[str, None] = {}
    for rows in _chunks(rows_of(frame, subject.signature.features), min(_CHUNK, subject.max_rows)):
        try:
            answer = msgspec.json.decode(subject.answer(orjson.dumps({"instances": rows})), type=_Answer)
        except InvalidInput as error:  # every row of the chunk is refused
            fields[error.field or "a row"] = None
            predictions += [None] * len(rows)
            probabilities += [None] * len(rows)
            continue
        labels = labels or answer.labels
        predictions += answer.predictions
        probabilities += answer.probabilities or [None] * len(rows)
        fields |= dict.fromkeys(error.get("field") or "a row" for error in answer.errors)
    refused = np.array([prediction is None for prediction in predictions])
    width = max((len(row) for row in probabilities if row), default=0)
    gap = [np.nan] * width
    known = np.array([row or gap for row in probabilities], dtype=np.float64) if width else None
    found = np.empty(len(predictions), dtype=object)
    found[:] = predictions
    return Answers(found, known, labels, refused, tuple(fields))


def rows_of(frame: pd.DataFrame, features: Sequence[Feature]) -> list[list[Any]]:
    """The rows as JSON values in the order of ``features``; what is missing is ``None``."""
    return [list(row) for row in zip(*(_column(frame, feature) for feature in features), strict=True)]


def _column(frame: pd.DataFrame, feature: Feature) -> Sequence[Any]:
    if feature.shape:
        raise Unsupported(
            f"'{feature.name}' is a tensor in each row; only tables can be checked",
            field=feature.name,
            hint="check it with tests of its own, and promote it with --force",
        )
    if feature.name not in frame.columns:
        raise InvalidInput(
            f"the sample has no column '{feature.name}'", field=feature.name, hint="give every feature a column"
        )
    column = frame[feature.name]
    if feature.datatype == "BYTES":
        return [None if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
    values = numbers(column)
    if feature.datatype == "BOOL":
        return [None if value != value else bool(value) for value in values.tolist()]
    if feature.datatype.startswith("FP"):
        return [None if value != value else value for value in values.tolist()]
    return [int(value) if value.is_integer() else None if value != value else value for value in values.tolist()]


def _chunks(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
