"""Encoders of categories, and imputers.

An encoder is read by asking it: every category it knows, and one it does not, are put through its own ``transform``,
column by column, and the graph looks up what came out. Dropped, grouped, infrequent and missing categories need no
code of their own that way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keelway.publish.convert.graph import MISSING_TEXT, Column, Graph, NotTranslated, Table, strings
from keelway.publish.convert.translate import Kind, Translator
from keelway.types import Array

#: Parts a column's number from its value in the keys of the one lookup that serves all columns.
_SEPARATOR: Final = "\x1f"

#: What the lookup answers for a key it does not know, where the columns differ in what is to be answered.
_NOT_FOUND: Final = float(np.finfo(np.float64).min)

_Value = str | float
_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Codes:
    """What one column's categories become: one number for each of ``keys``, for a missing and for an unknown value."""

    keys: tuple[_Value, ...]
    codes: _Numbers
    missing: float
    unknown: float


# Encoders


def _one_hot(graph: Graph, encoder: Any, table: Table) -> Table:
    """Codes are the numbers of the output columns, counted through all blocks; -1 is none of them."""
    widths = [int(width) for width in encoder._n_features_outs]  # no public name says where a block ends
    ends = np.cumsum(widths)
    blocks = [slice(int(end) - width, int(end)) for end, width in zip(ends, widths, strict=True)]
    columns = [_asked(graph, encoder, table, position, _hot(block)) for position, block in enumerate(blocks)]
    codes = graph.cast(coded(graph, table, columns), "INT64")
    total = sum(widths)
    owned = graph.op("Gather", codes, graph.integers(np.repeat(np.arange(len(widths)), widths)), axis=1)
    return graph.table_of(graph.as_number(graph.op("Equal", owned, graph.integers(np.arange(total)))), total)


def _hot(block: slice) -> Callable[[_Numbers], _Numbers]:
    def number_of_the_one(rows: _Numbers) -> _Numbers:
        part = rows[:, block]
        if not part.shape[1]:
            return np.full(len(part), -1.0)
        return np.where(part.any(axis=1), part.argmax(axis=1) + float(block.start), -1.0)

    return number_of_the_one


def _one_code(graph: Graph, encoder: Any, table: Table) -> Table:
    """OrdinalEncoder and TargetEncoder: one number per column."""
    if len(np.ravel(getattr(encoder, "classes_", ()))) > 2:
        raise NotTranslated("a TargetEncoder of several classes")
    columns = [_asked(graph, encoder, table, position, _at(position)) for position in range(len(table))]
    return graph.table_of(graph.as_number(coded(graph, table, columns), "FP64"), len(table))


def _at(position: int) -> Callable[[_Numbers], _Numbers]:
    return lambda rows: rows[:, position]


def _asked(graph: Graph, encoder: Any, table: Table, position: int, code: Callable[[_Numbers], _Numbers]) -> Codes:
    """Put every category of the column at ``position``, a missing and an unknown value through the encoder.

    A value that the encoder refuses (``handle_unknown="error"``) gets the code of an unknown one, and that -1.
    """
    categories = [list(values) for values in encoder.categories_]
    keys = [value for value in categories[position] if not _is_missing(value)]
    text = graph.is_text(table[position])
    if any(isinstance(value, str) != text for value in keys):
        raise NotTranslated("an encoder whose categories are of another type than the sample's column")
    base = [values[0] if values else 0.0 for values in categories]

    def ask(values: list[Any]) -> _Numbers:
        every = [values if at == position else [base[at]] * len(values) for at in range(len(base))]
        rows = _rows(encoder, every, [graph.is_text(column) for column in table])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown values are sent on purpose
            answer = encoder.transform(rows)
        dense = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer, np.float64)
        return code(dense)

    unknown = _or(lambda: ask([_unknown(keys, text)]), -1.0)
    return Codes(
        tuple(str(key) if text else float(key) for key in keys),
        ask(keys) if keys else np.zeros(0),
        _or(lambda: ask([np.nan]), unknown),
        unknown,
    )


def _rows(encoder: Any, columns: list[list[Any]], texts: list[bool]) -> Any:
    """``columns`` as the encoder was fitted: a frame if it knows names, an array of objects otherwise."""
    import pandas as pd

    if hasattr(encoder, "feature_names_in_"):
        # Said, because a column of nothing but a missing text would become one of numbers.
        dtypes = [object if text else None for text in texts]
        series = [pd.Series(column, dtype=dtype) for column, dtype in zip(columns, dtypes, strict=True)]
        return pd.DataFrame(dict(zip(encoder.feature_names_in_, series, strict=True)))
    rows = np.empty((len(columns[0]), len(columns)), object)
    for position, column in enumerate(columns):
        rows[:, position] = column
    return rows


def _or(ask: Callable[[], _Numbers], otherwise: float) -> float:
    try:
        return float(ask()[0])
    except (TypeError, ValueError):  # how scikit-learn refuses a value
        return otherwise


def _unknown(keys: list[Any], text: bool) -> _Value:
    if not text:
        return float(max(keys, default=0.0)) + 1.0
    value = "unknown"
    while value in keys:
        value += "_"
    return value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value)) or type(value).__name__ == "NAType"


# Lookups


def coded(graph: Graph, table: Table, columns: list[Codes]) -> str:
    """The code of every value: FP64 [-1, len(table)], in the order of ``table``."""
    texts = [position for position, column in enumerate(table) if graph.is_text(column)]
    others = [position for position in range(len(table)) if position not in set(texts)]
    parts = []
    for positions, look in ((texts, _looked_up), (others, _compared)):
        if positions:
            chosen = tuple(table[position] for position in positions)
            parts.append(look(graph, chosen, [columns[position] for position in positions]))
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.array(texts + others))
    return graph.op("Gather", graph.op("Concat", *parts, axis=1), graph.integers(order), axis=1)


def _looked_up(graph: Graph, table: Table, columns: list[Codes]) -> str:
    """Text: one lookup for all columns, each value marked with the number of its column."""
    from onnx import numpy_helper

    prefixes = [f"{position}{_SEPARATOR}" if len(columns) > 1 else "" for position in range(len(columns))]
    codes: dict[str, float] = {}
    for place, prefix, column in zip(table, prefixes, columns, strict=True):
        if graph.may_miss(place):
            if MISSING_TEXT in column.keys:
                raise NotTranslated("an encoder that tells an empty text from a missing one")
            codes[prefix + MISSING_TEXT] = column.missing
        codes |= {f"{prefix}{key}": code for key, code in zip(column.keys, column.codes, strict=True)}
    marked = graph.matrix(table, "BYTES")
    if len(columns) > 1:
        marked = graph.op("StringConcat", graph.constant(strings(prefixes), object), marked)
    unknown = np.array([column.unknown for column in columns])
    shared = np.array_equal(unknown, np.full_like(unknown, unknown[0]), equal_nan=True)
    default = unknown[0] if shared else _NOT_FOUND
    found = graph.op(
        "LabelEncoder",
        marked,
        domain="ai.onnx.ml",
        keys_tensor=numpy_helper.from_array(strings(list(codes))),
        values_tensor=numpy_helper.from_array(np.array(list(codes.values()))),
        default_tensor=numpy_helper.from_array(np.array([default])),
    )
    if shared:
        return found
    nowhere = graph.op("Equal", found, graph.constant(_NOT_FOUND, np.float64))
    return graph.op("Where", nowhere, graph.constant(unknown, np.float64), found)


def _compared(graph: Graph, table: Table, columns: list[Codes]) -> str:
    """Numbers: every value beside every category of its column; a matrix product picks the code of the equal one."""
    x = graph.matrix(table, "FP64")
    owners = np.repeat(np.arange(len(columns)), [len(column.keys) for column in columns])
    keys = np.array([key for column in columns for key in column.keys], np.float64)
    codes = np.concatenate([column.codes for column in columns])
    unknown = np.array([column.unknown for column in columns])
    missing = np.array([column.missing for column in columns])
    picks = np.zeros((len(keys), len(columns)))
    picks[np.arange(len(keys)), owners] = 1.0
    beside = graph.op("Gather", x, graph.integers(owners), axis=1)
    equal = graph.cast(graph.op("Equal", beside, graph.constant(keys, np.float64)), "FP64")
    found = graph.op("MatMul", equal, graph.constant(picks * codes[:, None], np.float64))
    known = graph.op(
        "Greater", graph.op("MatMul", equal, graph.constant(picks, np.float64)), graph.constant(0, np.float64)
    )
    result = graph.op("Where", known, found, graph.constant(unknown, np.float64))
    if np.array_equal(missing, unknown, equal_nan=True):
        return result  # NaN equals no category
    return graph.op("Where", graph.op("IsNaN", x), graph.constant(missing, np.float64), result)


# Missing values


def _simple_imputer(graph: Graph, imputer: Any, table: Table) -> Table:
    empty = [] if imputer.keep_empty_features else [_is_missing(value) for value in imputer.statistics_]
    filled: list[Column] = list(table)
    masks: dict[bool, tuple[list[int], str]] = {}
    for text in (True, False):
        positions = [position for position, column in enumerate(table) if graph.is_text(column) == text]
        if positions:
            chosen = tuple(table[position] for position in positions)
            mask = _missing_mask(graph, chosen, imputer.missing_values, text)
            masks[text] = positions, mask
            values = _fill_values(graph, imputer.statistics_[positions], text)
            matrix = graph.matrix(chosen, "BYTES" if text else None)
            new = graph.op("Where", mask, values, matrix)
            columns = graph.table_of(new, len(positions), "BYTES" if text else None)
            for position, column in zip(positions, columns, strict=True):
                filled[position] = column
    kept = tuple(column for position, column in enumerate(filled) if not (empty and empty[position]))
    if imputer.add_indicator:
        kept += _indicated(graph, masks, imputer.indicator_.features_)
    return kept


def _missing_mask(graph: Graph, table: Table, missing: Any, text: bool) -> str:
    if text:
        equal = graph.op("Equal", graph.matrix(table, "BYTES"), graph.constant(_gap(missing), object))
        if not _is_missing(missing) or all(graph.may_miss(column) for column in table):
            return equal
        return graph.op("And", equal, graph.constant([graph.may_miss(column) for column in table], np.bool_))
    if isinstance(missing, str):
        raise NotTranslated("an imputer of numbers whose missing value is text")
    if _is_missing(missing):
        return graph.op("IsNaN", graph.matrix(table))
    return graph.op("Equal", graph.matrix(table), graph.constant(missing))


def _gap(missing: Any) -> Array:
    """How the missing value of an imputer of text stands in a tensor, [1]."""
    value = MISSING_TEXT if _is_missing(missing) else missing
    if not isinstance(value, str):
        raise NotTranslated("an imputer of text whose missing value is a number")
    return strings([value])


def _fill_values(graph: Graph, values: Array, text: bool) -> str:
    if not text:
        return graph.constant([np.nan if _is_missing(value) else float(value) for value in values])
    if any(not isinstance(value, str) and not _is_missing(value) for value in values):
        raise NotTranslated("an imputer that fills text with numbers")
    return graph.constant(strings([MISSING_TEXT if _is_missing(value) else value for value in values]), object)


def _indicated(graph: Graph, masks: Mapping[bool, tuple[list[int], str]], features: Array) -> Table:
    columns: dict[int, Column] = {}
    for positions, mask in masks.values():
        columns |= dict(zip(positions, graph.table_of(graph.as_number(mask), len(positions)), strict=True))
    return tuple(columns[int(position)] for position in features)


def _missing_indicator(graph: Graph, indicator: Any, table: Table) -> Table:
    mask = graph.as_number(_missing_mask(graph, table, indicator.missing_values, graph.is_text(table[0])))
    columns = graph.table_of(mask, len(table))
    return tuple(columns[int(position)] for position in indicator.features_)


TRANSLATORS: Final[Mapping[tuple[Kind, str], Translator]] = {
    ("transformer", "OneHotEncoder"): _one_hot,
    ("transformer", "OrdinalEncoder"): _one_code,
    ("transformer", "TargetEncoder"): _one_code,
    ("transformer", "SimpleImputer"): _simple_imputer,
    ("transformer", "MissingIndicator"): _missing_indicator,
}
