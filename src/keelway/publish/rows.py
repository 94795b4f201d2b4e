"""Rows of named, typed columns: the form in which a proof makes, stores and feeds its inputs.

Numbers are float64 with NaN for missing, texts are objects with None for missing, booleans are booleans. From here
they become what the original takes (a pandas frame with the sample's dtypes) and what the candidate takes (the packed
tensors, rounded as the serving side rounds). Files are .npz without pickles, since they cross a trust boundary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keelway.contract.sample import column_kind, numbers
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Rows:
    """``columns`` maps a name to its values, all of one length; ``dtypes`` to the pandas dtype of the sample."""

    columns: Mapping[str, Array]
    dtypes: Mapping[str, str]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def is_number(self, name: str) -> bool:
        return self.columns[name].dtype.kind == "f"

    def is_text(self, name: str) -> bool:
        return self.columns[name].dtype.kind == "O"

    def take(self, positions: Array) -> Rows:
        return Rows({name: values[positions] for name, values in self.columns.items()}, self.dtypes)

    def frame(self, *, whole: bool = False) -> pd.DataFrame:
        """The rows as the original takes them: in the dtypes of the sample. A column of whole numbers becomes one of
        floats unless ``whole``, because a caller may send any number; categories take in what they did not know."""
        import pandas as pd

        return pd.DataFrame({name: _series(values, self.dtypes[name], whole) for name, values in self.columns.items()})

    def save(self, path: Path) -> None:
        """Write to ``path`` (.npz): numbers and booleans as they are, text as one buffer of UTF-8 and lengths."""
        arrays: dict[str, Array] = {}
        for position, (name, values) in enumerate(self.columns.items()):
            arrays[f"name_{position}"] = _bytes(name)
            arrays[f"dtype_{position}"] = _bytes(self.dtypes[name])
            if values.dtype.kind == "O":
                encoded = [None if value is None else str(value).encode() for value in values]
                arrays[f"text_{position}"] = np.frombuffer(b"".join(value or b"" for value in encoded), np.uint8)
                arrays[f"lengths_{position}"] = np.array([-1 if v is None else len(v) for v in encoded], np.int64)
            else:
                arrays[f"values_{position}"] = values
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Rows:
        """Read what ``save`` wrote. ``ValueError`` or ``KeyError`` for anything else."""
        columns: dict[str, Array] = {}
        dtypes: dict[str, str] = {}
        with np.load(path, allow_pickle=False) as arrays:
            position = 0
            while f"name_{position}" in arrays:
                name = arrays[f"name_{position}"].tobytes().decode()
                dtypes[name] = arrays[f"dtype_{position}"].tobytes().decode()
                if f"values_{position}" in arrays:
                    columns[name] = arrays[f"values_{position}"]
                else:
                    columns[name] = _texts(arrays[f"text_{position}"].tobytes(), arrays[f"lengths_{position}"])
                position += 1
        return cls(columns, dtypes)


def rows_of(frame: pd.DataFrame) -> Rows:
    """The rows of a sample, a column each. Raises ``InvalidInput`` for columns that are no feature."""
    columns = {str(name): _values(frame[name]) for name in frame.columns}
    return Rows(columns, {str(name): str(frame[name].dtype) for name in frame.columns})


def joined(parts: Sequence[Rows]) -> Rows:
    """``parts`` one after another; all have the same columns."""
    first = parts[0]
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns}
    return Rows(columns, first.dtypes)


def tensors(rows: Rows, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """``rows`` as the packed tensors ``inputs``, rounded as the serving side does it: numbers to the tensor's datatype,
    a missing number to NaN. A missing text stays None, which each runtime turns into its own."""
    packed: dict[str, Array] = {}
    for spec in inputs:
        columns = [rows.columns[column] for column in spec.columns]
        with np.errstate(over="ignore"):
            packed[spec.name] = np.stack(columns, axis=1).astype(NUMPY_DTYPES[spec.datatype])
    return packed


def _values(column: pd.Series[Any]) -> Array:
    kind = column_kind(column)
    if kind == "number":
        return numbers(column)
    if kind == "boolean":
        return column.to_numpy(dtype=bool)
    values = np.empty(len(column), dtype=object)
    missing = column.isna().to_numpy()
    values[:] = [None if gone else str(value) for value, gone in zip(column, missing, strict=True)]
    return values


def _series(values: Array, dtype: str, whole: bool) -> Any:
    import pandas as pd

    if values.dtype.kind == "b":
        return pd.array(values, dtype="boolean") if dtype == "boolean" else values
    if values.dtype.kind == "f":
        if dtype[:1] in ("I", "U", "F"):  # pandas' own nullable numbers
            missing = np.isnan(values)
            found = pd.array(np.where(missing, 0.0, values), dtype="Float32" if dtype == "Float32" else "Float64")
            found[missing] = pd.NA
            return found
        if dtype == "category":
            return values
        if whole and np.dtype(dtype).kind in "iu":
            return values.astype(dtype)
        return values.astype(np.float32) if dtype in ("float32", "float16") else values
    if dtype == "category":
        return pd.Categorical(values)
    if dtype == "object":
        return np.array([np.nan if value is None else value for value in values], dtype=object)
    return pd.array(values, dtype="string" if dtype == "string" else "str")


def _bytes(text: str) -> Array:
    return np.frombuffer(text.encode(), np.uint8)


def _texts(buffer: bytes, lengths: Array) -> Array:
    values = np.empty(len(lengths), dtype=object)
    start = 0
    for position, length in enumerate(lengths.tolist()):
        if length >= 0:
            values[position] = buffer[start : start + length].decode()
            start += length
    return values
