"""Numeric steps that work on each column by itself, in scikit-learn's own order of operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from keelway.publish.convert.graph import Graph, NotTranslated, Table
from keelway.publish.convert.translate import Kind, Translator


def _standard(graph: Graph, scaler: Any, table: Table) -> Table:
    shift = scaler.mean_ if scaler.with_mean else None
    return _shift_then_divide(graph, table, shift, scaler.scale_ if scaler.with_std else None)


def _robust(graph: Graph, scaler: Any, table: Table) -> Table:
    shift = scaler.center_ if scaler.with_centering else None
    return _shift_then_divide(graph, table, shift, scaler.scale_ if scaler.with_scaling else None)


def _max_abs(graph: Graph, scaler: Any, table: Table) -> Table:
    if getattr(scaler, "clip", False):
        raise NotTranslated("a MaxAbsScaler that clips")
    return _shift_then_divide(graph, table, None, scaler.scale_)


def _shift_then_divide(graph: Graph, table: Table, shift: Any, scale: Any) -> Table:
    tensor = graph.matrix(table)
    if shift is not None and np.any(shift):
        tensor = graph.op("Sub", tensor, graph.constant(shift))
    if scale is not None and np.any(np.asarray(scale) != 1):
        tensor = graph.op("Div", tensor, graph.constant(scale))
    return graph.table_of(tensor, len(table))


def _min_max(graph: Graph, scaler: Any, table: Table) -> Table:
    tensor = graph.op("Mul", graph.matrix(table), graph.constant(scaler.scale_))
    tensor = graph.op("Add", tensor, graph.constant(scaler.min_))
    if scaler.clip:
        low, high = scaler.feature_range
        tensor = graph.op("Clip", tensor, graph.constant(low), graph.constant(high))
    return graph.table_of(tensor, len(table))


def _normalizer(graph: Graph, normalizer: Any, table: Table) -> Table:
    tensor, axes = graph.matrix(table), graph.integers([1])
    if normalizer.norm == "max":
        norm = graph.op("ReduceMax", graph.op("Abs", tensor), axes)
    else:
        norm = graph.op("ReduceL1" if normalizer.norm == "l1" else "ReduceL2", tensor, axes)
    nothing = graph.op("Equal", norm, graph.constant(0.0))  # scikit-learn leaves a row of zeros as it is
    norm = graph.op("Where", nothing, graph.constant(1.0), norm)
    return graph.table_of(graph.op("Div", tensor, norm), len(table))


def _binarizer(graph: Graph, binarizer: Any, table: Table) -> Table:
    above = graph.op("Greater", graph.matrix(table), graph.constant(binarizer.threshold))
    return graph.table_of(graph.as_number(above), len(table))


def _polynomial(graph: Graph, features: Any, table: Table) -> Table:
    """Products of columns, factor by factor; a column of ones stands in where a product has fewer factors."""
    powers = features.powers_
    degree = int(powers.sum(axis=1).max(initial=0))
    x = graph.matrix(table)
    ones = graph.op(
        "Add",
        graph.op("Mul", graph.op("Gather", x, graph.integers([0]), axis=1), graph.constant(0.0)),
        graph.constant(1.0),
    )
    padded = graph.op("Concat", x, ones, axis=1)
    factors = np.full((len(powers), degree), len(table))
    for row, exponents in enumerate(powers):
        used = np.repeat(np.arange(len(table)), exponents)
        factors[row, : len(used)] = used
    result = graph.op("Gather", padded, graph.integers(factors[:, 0]), axis=1)
    for column in range(1, degree):
        result = graph.op("Mul", result, graph.op("Gather", padded, graph.integers(factors[:, column]), axis=1))
    return graph.table_of(result, len(powers))


def _bins(graph: Graph, discretizer: Any, table: Table) -> Table:
    """The number of inner edges at or below each value, as it is or one-hot."""
    inner = [np.asarray(edges[1:-1], np.float64) for edges in discretizer.bin_edges_]
    owners = np.repeat(np.arange(len(inner)), [len(edges) for edges in inner])
    x = graph.matrix(table)
    beside = graph.op("Gather", x, graph.integers(owners), axis=1)
    passed = graph.as_number(graph.op("GreaterOrEqual", beside, graph.constant(np.concatenate(inner))))
    picks = np.zeros((len(owners), len(inner)))
    picks[np.arange(len(owners)), owners] = 1.0
    numbers = graph.op("MatMul", passed, graph.constant(picks))
    if discretizer.encode == "ordinal":
        return graph.table_of(numbers, len(inner))
    bins = [int(count) for count in discretizer.n_bins_]
    owned = graph.op("Gather", numbers, graph.integers(np.repeat(np.arange(len(bins)), bins)), axis=1)
    hot = graph.op("Equal", owned, graph.constant(np.concatenate([np.arange(count) for count in bins])))
    return graph.table_of(graph.as_number(hot), sum(bins))


def _selected(graph: Graph, selector: Any, table: Table) -> Table:
    """Every selector of features: the columns it supports, whatever it chose them by."""
    return tuple(table[int(position)] for position in selector.get_support(indices=True))


_SELECTORS: Final = (
    "GenericUnivariateSelect",
    "RFE",
    "RFECV",
    "SelectFdr",
    "SelectFpr",
    "SelectFromModel",
    "SelectFwe",
    "SelectKBest",
    "SelectPercentile",
    "SequentialFeatureSelector",
    "VarianceThreshold",
)

TRANSLATORS: Final[Mapping[tuple[Kind, str], Translator]] = {
    ("transformer", "StandardScaler"): _standard,
    ("transformer", "RobustScaler"): _robust,
    ("transformer", "MaxAbsScaler"): _max_abs,
    ("transformer", "MinMaxScaler"): _min_max,
    ("transformer", "Normalizer"): _normalizer,
    ("transformer", "Binarizer"): _binarizer,
    ("transformer", "PolynomialFeatures"): _polynomial,
    ("transformer", "KBinsDiscretizer"): _bins,
    **{("transformer", name): _selected for name in _SELECTORS},
}
