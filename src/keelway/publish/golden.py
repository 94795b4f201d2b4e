"""The golden sample: some rows of a push's sample and what the pushed model answers to them, kept with the version.

The next push is compared with it: without it nobody can say that predictions are the same. The rows are chosen evenly
from the whole sample, so that the same sample gives the same rows. They are user data at rest; ``keelway push
--no-golden`` keeps none. Stored as .npz without pickles; ``ModelVersion.metadata["golden"]`` is the digest.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from keelway.artifacts.blobs import BlobStore
from keelway.contract.sample import column_kind, numbers
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import CorruptArtifact, InvalidInput
from keelway.publish.examples import arrays_of, read_arrays
from keelway.registry.models import ModelVersion
from keelway.types import NUMPY_DTYPES, Array

if TYPE_CHECKING:
    import pandas as pd

#: The key of ``ModelVersion.metadata`` that holds the digest.
GOLDEN: Final = "golden"

#: Rows of a golden sample at most, and bytes of their values.
MAX_ROWS: Final = 256
MAX_BYTES: Final = 16 * 1024 * 1024

#: Bytes of a stored golden sample, with its answers, at most: packed, and unpacked.
_MAX_STORED: Final = 64 * 1024 * 1024
_MAX_UNPACKED: Final = 512 * 1024 * 1024

#: Rows by feature, or answers by output: arrays [n, ...], texts as objects with None for missing.
Columns = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Golden:
    """``rows`` [n, *shape] by feature, in the datatype of each, and ``answers`` [n, ...] by output of the model."""

    rows: Columns
    answers: Columns

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def to_bytes(self) -> bytes:
        """What ``from_bytes`` reads; equal samples give equal bytes."""
        return pack_columns(self.rows, self.answers)

    @classmethod
    def from_bytes(cls, data: bytes) -> Golden:
        """``CorruptArtifact`` for anything but what ``to_bytes`` wrote."""
        try:
            rows, answers = unpack_columns(data)
        except ValueError as error:
            raise CorruptArtifact("the golden sample of a version cannot be read", hint="push it again") from error
        return cls(rows, answers)


def golden_of(version: ModelVersion, blobs: BlobStore) -> Golden | None:
    """The golden sample of ``version``, verified; ``None`` if it has none."""
    digest = version.metadata.get(GOLDEN)
    return Golden.from_bytes(blobs.read(digest, _MAX_STORED)) if isinstance(digest, str) else None


def choose(sample: pd.DataFrame | Path, signature: ModelSignature) -> dict[str, Array] | None:
    """Up to ``MAX_ROWS`` rows of ``sample``, a table without its target or a file of arrays, by feature.

    ``None`` if the sample does not hold what the features take, or one row is too large.
    """
    try:
        found = _of_arrays(read_arrays(sample), signature) if isinstance(sample, Path) else _of_table(sample, signature)
    except (InvalidInput, TypeError, ValueError):
        return None
    if found is None:
        return None
    count = len(next(iter(found.values())))
    each = sum(_size(column[:1]) for column in found.values())
    kept = min(count, MAX_ROWS, MAX_BYTES // max(each, 1))
    if kept < 1:
        return None
    places = np.linspace(0, count - 1, kept).astype(np.int64)
    return {name: np.ascontiguousarray(column[places]) for name, column in found.items()}


def fitted(rows: Columns, signature: ModelSignature) -> dict[str, Array] | None:
    """``rows`` as a model of another ``signature`` takes them, as far as they hold what it needs: else ``None``."""
    count = len(next(iter(rows.values())))
    found = {}
    for feature in signature.features:
        column = rows.get(feature.name)
        if column is None:
            if not feature.nullable:
                return None
            column = np.full((count, *feature.shape), None if feature.datatype == "BYTES" else np.nan, object)
        try:
            found[feature.name] = _cast(column, feature)
        except (TypeError, ValueError):
            return None
    return found


def pack_columns(*parts: Columns) -> bytes:
    arrays: dict[str, Array] = {}
    for part, columns in enumerate(parts):
        for place, (name, column) in enumerate(columns.items()):
            key = f"{part}_{place}"
            arrays[f"name_{key}"] = np.frombuffer(name.encode(), np.uint8)
            if column.dtype == object:
                texts = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in column.flat]
                arrays[f"text_{key}"] = np.frombuffer(msgspec.json.encode(texts), np.uint8)
                arrays[f"shape_{key}"] = np.array(column.shape, np.int64)
            else:
                arrays[f"values_{key}"] = column
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_columns(data: bytes) -> tuple[dict[str, Array], dict[str, Array]]:
    """The parts that ``pack_columns`` packed, two of them. ``ValueError`` for anything else."""
    parts: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED:
                raise ValueError("too large")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for part, columns in enumerate(parts):
                place = 0
                while f"name_{part}_{place}" in arrays:
                    key = f"{part}_{place}"
                    columns[arrays[f"name_{key}"].tobytes().decode()] = _column(arrays, key)
                    place += 1
    except (OSError, KeyError, EOFError, zipfile.BadZipFile, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError("no columns") from error
    if not parts[0]:
        raise ValueError("no columns")
    return parts


def _column(arrays: Mapping[str, Array], key: str) -> Array:
    if f"values_{key}" in arrays:
        return arrays[f"values_{key}"]
    texts = msgspec.json.decode(arrays[f"text_{key}"].tobytes(), type=list[str | None])
    column = np.empty(len(texts), object)
    column[:] = texts
    return column.reshape(arrays[f"shape_{key}"])


def _of_table(frame: pd.DataFrame, signature: ModelSignature) -> dict[str, Array] | None:
    features, names = signature.features, [str(name) for name in frame.columns]
    if len(features) == 1 and features[0].name not in names:
        if features[0].shape:  # a network that takes the table as one tensor
            return _of_arrays(arrays_of(frame), signature)
        names = [features[0].name] if len(names) == 1 else names
    found = {}
    for feature in features:
        if feature.name not in names or feature.shape:
            return None
        column = frame.iloc[:, names.index(feature.name)].rename(feature.name)
        found[feature.name] = _cast(_values(column), feature)
    return found


def _values(column: pd.Series[Any]) -> Array:
    if column_kind(column) == "number":
        return numbers(column)
    values = np.empty(len(column), dtype=object)
    missing = column.isna().to_numpy()
    values[:] = [None if gone else value for value, gone in zip(column, missing, strict=True)]
    return values


def _of_arrays(arrays: Mapping[str, Array], signature: ModelSignature) -> dict[str, Array] | None:
    features = signature.features
    if len(features) == 1 and len(arrays) == 1:
        arrays = {features[0].name: next(iter(arrays.values()))}
    if any(feature.name not in arrays for feature in features):
        return None
    return {feature.name: _cast(arrays[feature.name], feature) for feature in features}


def _cast(column: Array, feature: Feature) -> Array:
    """``TypeError`` or ``ValueError`` for what cannot be of the datatype."""
    dtype = NUMPY_DTYPES[feature.datatype]
    if dtype.kind == "O":
        texts = np.empty(column.size, object)
        texts[:] = [value if value is None else str(value) for value in column.flat]
        return texts.reshape(column.shape)
    with np.errstate(over="ignore", invalid="raise"):
        try:
            return column.astype(dtype)
        except FloatingPointError:
            raise ValueError("a missing value where none may be") from None


def _size(column: Array) -> int:
    return sum(len(str(value)) for value in column.flat) if column.dtype == object else column.nbytes
