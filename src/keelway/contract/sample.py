"""A sample of a model's inputs, read from a file or from memory into a pandas frame, and what its columns hold.

It judges only whether the sample can be used at all: rows and columns exist, names are unique, a column holds one kind
of value. It neither infers a signature (``signature.py``) nor measures anything (``baseline.py``); both call it, as
does ``keelway push``. Whatever is wrong with a file ends in one line of ``KeelwayError``, never in a parser's own text.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from keelway.errors import FailedPrecondition, InvalidInput, KeelwayError, NotFound

if TYPE_CHECKING:
    import pandas as pd

#: What one column of a sample holds. Numbers are integers and floats of any width; text is strings.
ColumnKind = Literal["number", "boolean", "text"]


def read_sample(source: Any) -> pd.DataFrame:
    """The sample as a frame with text column names, at least one column and at least one row.

    ``source`` is a path (.csv, .tsv, .parquet, .arrow, .feather, .json holding a list of records, .jsonl, .npy, .npz),
    a pandas DataFrame, a pyarrow Table, a NumPy array of shape (rows, columns), or a mapping of column name to values.
    Array columns are named x0 .. xn-1; in an .npz file one array may be two-dimensional and each one-dimensional array
    is a column under its own name. The index of a pandas frame is not a column.

    Raises ``NotFound`` for a file that is not there, ``InvalidInput`` for anything that cannot be a sample, and
    ``FailedPrecondition`` when the library that reads the format is not installed.
    """
    frame = _read_file(Path(source)) if isinstance(source, str | Path) else _from_memory(source)
    frame = frame.set_axis(list(column_names(frame.columns)), axis=1)
    if not len(frame):
        raise InvalidInput("the sample has no rows", hint="give at least one row; a few hundred make a baseline")
    return frame


def split_target(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """The frame without the column ``target``, and that column. Raises ``InvalidInput`` if it is unknown or alone."""
    if target not in frame.columns:
        near = difflib.get_close_matches(target, [str(name) for name in frame.columns], n=3)
        shown = near or [str(name) for name in frame.columns[:8]]
        lead = "did you mean" if near else "the columns are"
        more = ", ..." if not near and len(frame.columns) > len(shown) else ""
        raise InvalidInput(
            f"the sample has no target column '{target}'",
            field=target,
            hint=f"{lead} {', '.join(shown)}{more}",
        )
    if len(frame.columns) == 1:
        raise InvalidInput(
            f"the target '{target}' is the only column of the sample",
            field=target,
            hint="a sample holds the model's features beside the target",
        )
    return frame.drop(columns=[target]), frame[target]


def column_names(names: Iterable[Any]) -> tuple[str, ...]:
    """Column names as text, in order; numbers become their text.

    Raises ``InvalidInput`` if a name is empty, repeated or of several levels, or if there is none.
    """
    texts: list[str] = []
    seen: set[str] = set()
    for position, name in enumerate(names):
        text = _column_name(name, position)
        if text in seen:
            raise InvalidInput(
                f"the column name '{text}' occurs more than once",
                field=text,
                hint="rename or drop one; names are compared as text",
            )
        seen.add(text)
        texts.append(text)
    if not texts:
        raise InvalidInput("the sample has no columns", hint="give one column per feature")
    return tuple(texts)


def column_kind(column: pd.Series[Any]) -> ColumnKind:
    """What ``column`` holds; a categorical column holds what its categories are. The series' name is used in errors.

    Raises ``InvalidInput`` for datetimes, complex numbers, decimals, raw bytes, nested values, mixed types and object
    columns without any value, naming the column and what to do.
    """
    import pandas as pd
    from pandas.api import types

    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return column_kind(dtype.categories.to_series(name=column.name))
    if types.is_bool_dtype(dtype):
        return "boolean"
    if types.is_integer_dtype(dtype) or types.is_float_dtype(dtype):
        return "number"
    if isinstance(dtype, pd.StringDtype):
        return "text"
    return _kind_of_values(column)


def numbers(column: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """A number or boolean column as float64, shape (rows,), NaN where a value is missing.

    Raises ``InvalidInput`` if the column holds anything else, or an integer beyond float64.
    """
    if column_kind(column) == "text":
        raise InvalidInput(
            f"column '{column.name}' holds text where the model takes numbers",
            field=str(column.name),
            hint="convert it with pandas.to_numeric, or give the raw sample the model was trained on",
        )
    try:
        values: npt.NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except OverflowError as error:
        raise InvalidInput(
            f"column '{column.name}' holds an integer too large for a 64-bit float",
            field=str(column.name),
            hint="treat it as text: frame[column].astype(str)",
        ) from error
    return values


_REFUSALS: Mapping[str, tuple[str, str]] = {
    "datetime": ("dates or times", "turn it into numbers, e.g. days since a fixed day, or into text"),
    "timedelta": ("durations", "turn it into a number of seconds: column.dt.total_seconds()"),
    "period": ("periods or intervals", "turn it into numbers or into text with astype(str)"),
    "complex": ("complex numbers", "split it into a real and an imaginary column"),
    "decimal": ("decimal numbers", "convert it with astype(float), or to text"),
    "bytes": ("raw bytes", "decode it to text: column.str.decode('utf-8')"),
    "nested": ("nested values", "give each element a column of its own"),
    "empty": ("no value at all", "drop it, or give it a dtype: astype(float) or astype('string')"),
    "mixed": ("values of mixed types", "convert it to one type, e.g. astype(str) or pandas.to_numeric"),
}

_KINDS_OF_OBJECTS: Mapping[str, ColumnKind] = {
    "string": "text",
    "boolean": "boolean",
    "integer": "number",
    "floating": "number",
    "mixed-integer-float": "number",
}

_REFUSALS_OF_OBJECTS: Mapping[str, str] = {
    "datetime64": "datetime",
    "datetime": "datetime",
    "date": "datetime",
    "time": "datetime",
    "timedelta64": "timedelta",
    "timedelta": "timedelta",
    "period": "period",
    "interval": "period",
    "complex": "complex",
    "decimal": "decimal",
    "bytes": "bytes",
    "empty": "empty",
}


def _kind_of_values(column: pd.Series[Any]) -> ColumnKind:
    from pandas.api import types

    found = types.infer_dtype(column, skipna=True)
    if found == "unknown-array":  # Arrow's dictionaries, lists, structs and nulls, unknown to pandas as a whole
        column = column.astype(object)
        found = types.infer_dtype(column, skipna=True)
    if found in _KINDS_OF_OBJECTS:
        return _KINDS_OF_OBJECTS[found]
    reason = _REFUSALS_OF_OBJECTS.get(found, "mixed")
    if reason == "mixed" and any(isinstance(value, list | tuple | dict | set | np.ndarray) for value in column):
        reason = "nested"
    what, hint = _REFUSALS[reason]
    raise InvalidInput(f"column '{column.name}' holds {what}", field=str(column.name), hint=hint)


def _column_name(name: Any, position: int) -> str:
    if isinstance(name, tuple):
        raise InvalidInput(
            f"column {position + 1} of the sample has a name of several levels",
            hint="flatten the names: frame.columns = ['_'.join(map(str, name)) for name in frame.columns]",
        )
    missing = name is None or (isinstance(name, float) and math.isnan(name))
    text = "" if missing else str(name)
    if not text.strip():
        raise InvalidInput(
            f"column {position + 1} of the sample has no name",
            hint="name it; if it is an index, write the file without it: to_csv(..., index=False)",
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidInput(f"the name of column {position + 1} of the sample is not valid Unicode", hint="rename it")
    return text


def _from_memory(source: Any) -> pd.DataFrame:
    pandas = _pandas()
    if isinstance(source, pandas.DataFrame):
        frame: pd.DataFrame = source
        return frame
    if isinstance(source, np.ndarray):
        return _frame_of_array(source)
    if isinstance(source, Mapping):
        return _frame_of_columns(source)
    if type(source).__module__.partition(".")[0] == "pyarrow" and hasattr(source, "to_pandas"):
        return _frame_of_table(source)
    raise InvalidInput(
        f"a sample cannot be read from a value of type {type(source).__name__}",
        hint="give a path, a pandas DataFrame, a pyarrow Table, a NumPy array or a mapping of columns",
    )


def _frame_of_array(array: npt.NDArray[Any]) -> pd.DataFrame:
    if array.ndim != 2 or array.dtype.names is not None:
        raise InvalidInput(
            f"a sample array has 2 dimensions (rows, columns), this one has {array.ndim}",
            hint="reshape it with array.reshape(rows, columns)",
        )
    frame: pd.DataFrame = _pandas().DataFrame(array, columns=[f"x{position}" for position in range(array.shape[1])])
    return frame


def _frame_of_columns(columns: Mapping[Any, Any]) -> pd.DataFrame:
    column_names(columns)
    try:
        frame: pd.DataFrame = _pandas().DataFrame(dict(columns))
    except (TypeError, ValueError) as error:  # unequal lengths, scalars, sets: pandas has a text for each
        raise InvalidInput(
            "the columns of the sample do not form a table", hint="give each column one list of the same length"
        ) from error
    return frame


def _frame_of_table(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _read_file(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise InvalidInput(
            f"a sample cannot be read from '{path.name}': unknown suffix '{suffix}'",
            hint=f"use one of {', '.join(_READERS)}",
        )
    _pandas()
    try:
        if not path.stat().st_size:
            raise InvalidInput(f"the sample file '{path.name}' is empty", hint="give a file with at least one row")
        return reader(path)
    except (KeelwayError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise NotFound(f"there is no sample file '{path.name}'", hint="check the path") from error
    except (IsADirectoryError, PermissionError) as error:
        raise InvalidInput(
            f"the sample '{path.name}' cannot be opened", hint="check the path and its rights"
        ) from error
    except Exception as error:
        # The parsers raise dozens of types of their own for bad bytes; their texts carry cell values.
        raise InvalidInput(
            f"the sample file '{path.name}' cannot be read as {suffix}",
            hint="open it with the program that wrote it, and check encoding and suffix",
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    return _read_delimited(path, ",")


def _read_tsv(path: Path) -> pd.DataFrame:
    return _read_delimited(path, "\t")


def _read_delimited(path: Path, separator: str) -> pd.DataFrame:
    pandas = _pandas()
    # The header alone first: read_csv would rename a repeated or empty name without a word.
    header = pandas.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
    column_names(header.iloc[0])
    frame: pd.DataFrame = pandas.read_csv(path, sep=separator, low_memory=False)
    if not isinstance(frame.index, pandas.RangeIndex):
        raise InvalidInput(
            f"the rows of '{path.name}' hold more values than its header has names", hint="name every column"
        )
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    _pyarrow()
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return _frame_of_table(file.read())


def _read_arrow(path: Path) -> pd.DataFrame:
    ipc = _pyarrow().ipc
    data = path.read_bytes()
    opened = ipc.open_file(data) if data.startswith(b"ARROW1") else ipc.open_stream(data)
    with opened:
        return _frame_of_table(opened.read_all())


def _read_json(path: Path) -> pd.DataFrame:
    return _frame_of_records(msgspec.json.decode(path.read_bytes()), path.name)


def _read_json_lines(path: Path) -> pd.DataFrame:
    lines = path.read_bytes().splitlines()
    return _frame_of_records([msgspec.json.decode(line) for line in lines if line.strip()], path.name)


def _frame_of_records(records: Any, name: str) -> pd.DataFrame:
    # Not pandas.read_json: it turns columns into dates by their names alone.
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InvalidInput(
            f"the sample file '{name}' does not hold records, one object per row",
            hint="write it with frame.to_json(..., orient='records')",
        )
    frame: pd.DataFrame = _pandas().DataFrame.from_records(records)
    return frame


def _read_array(path: Path) -> pd.DataFrame:
    return _frame_of_array(np.load(path, allow_pickle=False))


def _read_arrays(path: Path) -> pd.DataFrame:
    # Opened here, because np.load leaves a file it cannot read open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays: dict[str, npt.NDArray[Any]] = {name: archive[name] for name in archive.files}
    tables = [array for array in arrays.values() if array.ndim == 2]
    if len(tables) > 1 or any(array.ndim not in (1, 2) for array in arrays.values()):
        raise InvalidInput(
            f"the sample file '{path.name}' holds more than one table",
            hint="keep one two-dimensional array, and one-dimensional arrays such as the target",
        )
    columns: dict[str, Any] = {name: array for name, array in arrays.items() if array.ndim == 1}
    if not tables:
        return _frame_of_columns(columns)
    frame = _frame_of_array(tables[0])
    column_names([*frame.columns, *columns])
    if any(len(values) != len(frame) for values in columns.values()):
        raise InvalidInput(f"the arrays of '{path.name}' have different lengths", hint="give one value per row")
    return frame.assign(**columns)


_READERS: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".npy": _read_array,
    ".npz": _read_arrays,
}


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise FailedPrecondition("reading a sample needs pandas", hint='pip install "keelway[data]"') from error
    return pd


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise FailedPrecondition("reading this sample needs pyarrow", hint='pip install "keelway[data]"') from error
    return pa
