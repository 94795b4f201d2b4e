"""Models of XGBoost, LightGBM and CatBoost: trees added from a start on, and a link behind the sum.

The readers beside this file (``boosted_xgboost.py`` and its neighbours) bring each library's own form into ``Boosted``;
this file makes the graph of it, in the arithmetic of the library: XGBoost adds float32, the others float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from keelway.contract.signature import Feature
from keelway.publish.convert import linear, translate
from keelway.publish.convert.boosting import summed
from keelway.publish.convert.encoders import Codes, coded
from keelway.publish.convert.graph import Graph, NotTranslated, Number, Table
from keelway.publish.convert.translate import Classified, Kind, Translation
from keelway.publish.convert.trees import Tree, sums_by_leaf
from keelway.types import Array, TensorSpec

#: How the sum of the trees becomes the answer. A classifier's are ``binary``, ``softmax`` and ``one_against_rest``.
Link = Literal["identity", "exp", "logistic", "signed_square", "binary", "softmax", "one_against_rest"]

_CLASSIFYING: Final = ("binary", "softmax", "one_against_rest")


@dataclass(frozen=True, slots=True)
class Treated:
    """What is done to a column before the trees see it. A value of ``categories`` becomes its position there, any other
    becomes missing. ``zero_is_missing``: so do zeros. ``whole``: numbers of categories are cut to whole ones, towards
    zero or down."""

    categories: tuple[str | int | float, ...] | None = None
    zero_is_missing: bool = False
    whole: Literal["", "towards zero", "down"] = ""


@dataclass(frozen=True, slots=True)
class Boosted:
    """``values`` are those of each tree's leaves, [leaves] for the tree's one entry of ``targets``, or [leaves, k] for
    all at once. ``start`` [k] is added first. The sums are multiplied by ``factor`` before the link.

    ``number`` is the library's own arithmetic; ``rounds`` says that it rounds the features to FP32. ``missing``
    is a number that stands for a missing one. ``class_by_sum``: the class is decided by the sums and not by the
    probabilities.
    """

    columns: tuple[Treated, ...]
    trees: tuple[Tree, ...]
    values: tuple[Array, ...]
    targets: tuple[int, ...]
    start: Array
    link: Link
    number: Number
    rounds: bool = True
    factor: float = 1.0
    missing: float | None = None
    class_by_sum: bool = False

    @property
    def is_classifier(self) -> bool:
        return self.link in _CLASSIFYING


def translate_boosted(
    boosted: Boosted,
    labels: tuple[str | int | float | bool, ...],
    inputs: Sequence[TensorSpec],
    features: Sequence[Feature],
    number: Number,
) -> Translation:
    """The model of ``boosted``; arguments and outputs as of ``translate.translate``."""
    graph = Graph(inputs, number, {feature.name for feature in features if feature.nullable})
    table = translate.table_of(features, inputs)
    if boosted.is_classifier:
        return translate.finished(graph, translate.classifier_outputs(graph, labels, classify(graph, boosted, table)))
    return translate.finished(graph, translate.regressor_outputs(graph, regress(graph, boosted, table)))


def classify(graph: Graph, boosted: Boosted, table: Table) -> Classified:
    raw, number = _sums(graph, boosted, table)
    with graph.computing_in(number):
        softmax = boosted.link == "softmax"
        shares = graph.op("Softmax", raw, axis=1) if softmax else linear.precise_sigmoid(graph, raw)
        if boosted.link == "binary":
            decided = graph.op("Greater", raw if boosted.class_by_sum else shares, _half(graph, boosted.class_by_sum))
            index = graph.cast(graph.op("Reshape", decided, graph.integers([-1])), "INT64")
            shares = linear.two_columns(graph, shares)
        else:
            index = graph.op("ArgMax", raw if boosted.class_by_sum else shares, axis=1, keepdims=0)
    return Classified(index, graph.as_number(shares, number))


def regress(graph: Graph, boosted: Boosted, table: Table) -> str:
    raw, number = _sums(graph, boosted, table)
    width = graph.widths[raw]
    with graph.computing_in(number):
        answer = _linked(graph, raw, boosted.link)
    if width == 1:
        return graph.as_number(graph.op("Reshape", answer, graph.integers([-1])), number)
    graph.widths[answer] = width
    return graph.as_number(answer, number)


def _half(graph: Graph, of_sum: bool) -> str:
    return graph.constant(0.0 if of_sum else 0.5)


def _linked(graph: Graph, raw: str, link: Link) -> str:
    if link == "exp":
        return graph.op("Exp", raw)
    if link == "logistic":
        return linear.precise_sigmoid(graph, raw)
    if link == "signed_square":
        return graph.op("Mul", graph.op("Sign", raw), graph.op("Mul", raw, raw))
    return raw


def _sums(graph: Graph, boosted: Boosted, table: Table) -> tuple[str, Number]:
    """The sums of the trees, [-1, k], and the datatype they are in."""
    number: Number = "FP32" if boosted.number == "FP32" else graph.number
    x = _matrix(graph, boosted, table, number)
    if boosted.values and boosted.values[0].ndim == 2:
        width, number = boosted.values[0].shape[1], "FP64"
        raw = sums_by_leaf(graph, x, boosted.trees, boosted.values)
        if boosted.start.any():
            raw = graph.op("Add", raw, graph.constant(boosted.start, np.float64))
    else:
        width = len(boosted.start)
        raw = summed(graph, x, boosted.start, list(zip(boosted.targets, boosted.trees, boosted.values, strict=True)))
    if boosted.factor != 1:
        with graph.computing_in(number):
            raw = graph.op("Mul", raw, graph.constant(boosted.factor))
    graph.widths[raw] = width
    return raw, number


def _matrix(graph: Graph, boosted: Boosted, table: Table, number: Number) -> str:
    if len(table) != len(boosted.columns):
        raise NotTranslated(f"a model of {len(boosted.columns)} features behind a step that makes {len(table)}")
    with graph.computing_in(number):
        x = graph.matrix(_coded(graph, boosted, table), "FP32" if boosted.rounds else number)
        if boosted.rounds and number == "FP64":
            x = graph.cast(x, number)
        if boosted.missing is not None:
            x = _gone(graph, graph.op("Equal", x, graph.constant(boosted.missing)), x)
        if any(column.zero_is_missing for column in boosted.columns):
            # LightGBM calls a number zero that is at most this far from it, 1e-35 in float32.
            zero = graph.op("LessOrEqual", graph.op("Abs", x), graph.constant(float(np.float32(1e-35))))
            marked = [column.zero_is_missing for column in boosted.columns]
            x = _gone(graph, graph.op("And", zero, graph.constant(marked, np.bool_)), x)
        for how in ("towards zero", "down"):
            marked = [column.whole == how for column in boosted.columns]
            if any(marked):
                x = graph.op("Where", graph.constant(marked, np.bool_), _cut(graph, x, how), x)
    graph.datatypes[x], graph.widths[x] = number, len(table)
    return x


def _gone(graph: Graph, where: str, x: str) -> str:
    return graph.op("Where", where, graph.constant(np.nan), x)


def _cut(graph: Graph, x: str, how: str) -> str:
    if how == "down":
        return graph.op("Floor", x)
    return graph.op("Mul", graph.op("Sign", x), graph.op("Floor", graph.op("Abs", x)))


def _coded(graph: Graph, boosted: Boosted, table: Table) -> Table:
    """``table`` with the columns of categories replaced by their codes."""
    positions = [at for at, column in enumerate(boosted.columns) if column.categories is not None]
    if not positions:
        return table
    codes = []
    for at in positions:
        categories = boosted.columns[at].categories or ()
        text = graph.is_text(table[at])
        if any(isinstance(category, str) != text for category in categories):
            raise NotTranslated("categories of another type than the sample's column")
        keys = tuple(category if isinstance(category, str) else float(category) for category in categories)
        codes.append(Codes(keys, np.arange(len(keys), dtype=np.float64), np.nan, np.nan))
    found = graph.table_of(coded(graph, tuple(table[at] for at in positions), codes), len(positions), "FP64")
    replaced = dict(zip(positions, found, strict=True))
    return tuple(replaced.get(at, column) for at, column in enumerate(table))


# As a step of a pipeline


def step_classifier(graph: Graph, estimator: Any, table: Table) -> Classified:
    return classify(graph, _of_step(estimator, "classifier"), table)


def step_regressor(graph: Graph, estimator: Any, table: Table) -> str:
    return regress(graph, _of_step(estimator, "regressor"), table)


def step_transformer(graph: Graph, estimator: Any, table: Table) -> Table:
    raise NotTranslated(f"{type(estimator).__name__} in the middle of a pipeline")


def _of_step(estimator: Any, kind: Kind) -> Boosted:
    from keelway.publish.boosters import of_object

    model = of_object(estimator)
    boosted = None if model is None else model.read()
    if boosted is None or boosted.is_classifier != (kind == "classifier"):
        raise NotTranslated(f"a {type(estimator).__name__}")
    if any(column.categories is not None for column in boosted.columns):
        raise NotTranslated("categories behind other steps")
    return boosted
