"""Estimators made of estimators: pipelines, column transformers, unions, searches and wrapped targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from keelway.publish.convert import translate
from keelway.publish.convert.graph import Graph, NotTranslated, Table
from keelway.publish.convert.translate import Classified, Kind, Translator

#: NumPy functions that ONNX has under another name, or as a short expression.
_FUNCTIONS: Final[Mapping[Any, str]] = {
    np.log: "Log",
    np.exp: "Exp",
    np.sqrt: "Sqrt",
    np.abs: "Abs",
    np.absolute: "Abs",
}


def _steps(graph: Graph, pipeline: Any, table: Table) -> tuple[Any, Table]:
    """The last step of a pipeline, and what the steps before it make of ``table``."""
    for _, step in pipeline.steps[:-1]:
        table = translate.transform(graph, step, table)
    return pipeline.steps[-1][1], table


def _pipeline_transform(graph: Graph, pipeline: Any, table: Table) -> Table:
    last, table = _steps(graph, pipeline, table)
    return translate.transform(graph, last, table)


def _pipeline_classify(graph: Graph, pipeline: Any, table: Table) -> Classified:
    return translate.classify(graph, *_steps(graph, pipeline, table))


def _pipeline_regress(graph: Graph, pipeline: Any, table: Table) -> str:
    return translate.regress(graph, *_steps(graph, pipeline, table))


def _column_transformer(graph: Graph, transformer: Any, table: Table) -> Table:
    # scikit-learn resolves names, slices, masks and selectors once, when fitted, to positions; these are they.
    positions = transformer._transformer_to_input_indices
    weights = transformer.transformer_weights or {}
    joined: Table = ()
    for name, step, _ in transformer.transformers_:
        chosen = tuple(table[int(position)] for position in positions[name])
        if not chosen:
            continue
        part = translate.transform(graph, step, chosen)
        joined += _weighted(graph, part, weights.get(name))
    return joined


def _feature_union(graph: Graph, union: Any, table: Table) -> Table:
    weights = union.transformer_weights or {}
    joined: Table = ()
    for name, step in union.transformer_list:
        joined += _weighted(graph, translate.transform(graph, step, table), weights.get(name))
    return joined


def _weighted(graph: Graph, table: Table, weight: float | None) -> Table:
    if weight is None or not table:
        return table
    return graph.table_of(graph.op("Mul", graph.matrix(table), graph.constant(weight)), len(table))


def _function(graph: Graph, transformer: Any, table: Table) -> Table:
    from sklearn.utils import check_array

    function = transformer.func
    if function is None or getattr(function, "func", function) is check_array:
        return table  # HistGradientBoosting checks its numbers with a partial check_array
    if transformer.kw_args:
        raise NotTranslated("a FunctionTransformer with arguments")
    return graph.table_of(_applied(graph, function, graph.matrix(table)), len(table))


def _applied(graph: Graph, function: Any, tensor: str) -> str:
    """``function(tensor)`` elementwise, for the few NumPy functions that pipelines are usually made with."""
    if function is np.log1p:
        return graph.op("Log", graph.op("Add", tensor, graph.constant(1.0)))
    if function is np.expm1:
        return graph.op("Sub", graph.op("Exp", tensor), graph.constant(1.0))
    if function is np.square:
        return graph.op("Mul", tensor, tensor)
    kind = next((name for known, name in _FUNCTIONS.items() if function is known), None)
    if kind is None:
        raise NotTranslated("a FunctionTransformer with a function of its own")
    return graph.op(kind, tensor)


def _search(kind: Kind) -> Translator:
    def of_best(graph: Graph, search: Any, table: Table) -> Any:
        inner = getattr(translate, {"transformer": "transform", "classifier": "classify", "regressor": "regress"}[kind])
        return inner(graph, search.best_estimator_, table)

    return of_best


def _transformed_target(graph: Graph, regressor: Any, table: Table) -> str:
    """The inner regressor, then the inverse of what was done to the target, for the same few functions."""
    back = regressor.transformer_
    if type(back).__name__ != "FunctionTransformer":
        raise NotTranslated("a transformed target whose transformer is not a function")
    prediction = translate.regress(graph, regressor.regressor_, table)
    if prediction in graph.widths:
        raise NotTranslated("a transformed target of several columns")
    return prediction if back.inverse_func is None else _applied(graph, back.inverse_func, prediction)


TRANSLATORS: Final[Mapping[tuple[Kind, str], Translator]] = {
    ("transformer", "Pipeline"): _pipeline_transform,
    ("classifier", "Pipeline"): _pipeline_classify,
    ("regressor", "Pipeline"): _pipeline_regress,
    ("transformer", "ColumnTransformer"): _column_transformer,
    ("transformer", "FeatureUnion"): _feature_union,
    ("transformer", "FunctionTransformer"): _function,
    ("regressor", "TransformedTargetRegressor"): _transformed_target,
    **{
        (kind, search): _search(kind)
        for kind in ("classifier", "regressor")
        for search in ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")
    },
}
