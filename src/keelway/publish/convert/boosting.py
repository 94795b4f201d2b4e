"""Gradient boosting, both kinds: trees added in float64 from the initial prediction on, in scikit-learn's order.

The initial prediction goes in as a tree of one leaf before all others, because a sum begun elsewhere rounds elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from keelway.publish.convert import linear, translate
from keelway.publish.convert.graph import Graph, NotTranslated, Table
from keelway.publish.convert.translate import Classified, Kind, Translator
from keelway.publish.convert.trees import Tree, ensemble, of_sklearn
from keelway.types import Array

_STUMP: Final = Tree(np.zeros(1, np.int64), np.zeros(1), np.full(1, -1), np.full(1, -1), np.zeros(1, bool), {})


def summed(graph: Graph, x: str, start: Array, trees: Sequence[tuple[int, Tree, Array]]) -> str:
    """``start`` and the leaf values of ``trees`` (target, tree, value of each leaf), summed by target: [-1, k] FP64."""
    width = len(start)
    stumps = [(target, _STUMP, start[target : target + 1]) for target in range(width) if start[target] != 0]
    every = [*stumps, *trees]
    return ensemble(
        graph,
        x,
        [tree for _, tree, _ in every],
        [values for _, _, values in every],
        [np.full(len(values), target) for target, _, values in every],
        width,
    )


def _gradient_raw(graph: Graph, estimator: Any, table: Table) -> str:
    init = estimator.init_
    if not (isinstance(init, str) or type(init).__name__ in ("DummyClassifier", "DummyRegressor")):
        raise NotTranslated("gradient boosting that starts from another estimator")
    start = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), np.float32))[0]
    trees = []
    for stage in estimator.estimators_:
        for target, regressor in enumerate(stage):
            tree = of_sklearn(regressor.tree_)
            trees.append((target, tree, estimator.learning_rate * regressor.tree_.value[tree.leaves, 0, 0]))
    x = graph.cast(graph.matrix(table, "FP32"), "FP64")  # scikit-learn rounds to float32 first
    graph.datatypes[x] = "FP64"
    return summed(graph, x, start, trees)


def _histogram_raw(graph: Graph, estimator: Any, table: Table) -> str:
    if getattr(estimator, "_preprocessor", None) is not None:
        table = translate.transform(graph, estimator._preprocessor, table)
    elif getattr(estimator, "is_categorical_", None) is not None:
        raise NotTranslated("a HistGradientBoosting model with categories, from before scikit-learn 1.4")
    trees = []
    for stage in estimator._predictors:
        for target, predictor in enumerate(stage):
            tree = _of_histogram(predictor)
            trees.append((target, tree, predictor.nodes["value"][tree.leaves]))
    x = graph.matrix(table, "FP64")
    graph.datatypes[x] = "FP64"
    return summed(graph, x, np.ravel(estimator._baseline_prediction), trees)


def _of_histogram(predictor: Any) -> Tree:
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(bool)
    members = {
        int(node): _members(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]])
        for node in np.flatnonzero(~leaf & nodes["is_categorical"].astype(bool))
    }
    left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
    return Tree(
        nodes["feature_idx"].astype(np.int64),
        nodes["num_threshold"].astype(np.float64),
        left,
        right,
        nodes["missing_go_to_left"].astype(bool),
        members,
    )


def _members(bitset: Array) -> list[float]:
    """The category numbers whose bit is set in eight words of 32 bits; -1, which is none, where there is no other."""
    return [
        float(32 * word + bit) for word, bits in enumerate(bitset) for bit in range(32) if int(bits) >> bit & 1
    ] or [-1.0]


def _classified(graph: Graph, estimator: Any, raw: str, zero_is_positive: bool) -> Classified:
    """The class is decided in float64; the rest goes on in the graph's number type."""
    link = type(estimator._loss.link).__name__
    width = graph.widths[raw]
    if link not in ("LogitLink", "HalfLogitLink", "MultinomialLogit"):
        raise NotTranslated(f"gradient boosting with a {link}")
    with graph.computing_in("FP64"):
        index = linear.index_of_decision(graph, raw, zero_is_positive)
        scaled = graph.op("Add", raw, raw) if link == "HalfLogitLink" else raw
        graph.widths[scaled] = width
        probabilities = linear.probabilities_of(graph, scaled)
    return Classified(index, graph.as_number(probabilities, "FP64"), graph.as_number(raw, "FP64"))


def _predicted(graph: Graph, estimator: Any, raw: str) -> str:
    flat = graph.op("Reshape", raw, graph.integers([-1]))
    link = type(estimator._loss.link).__name__
    if link not in ("IdentityLink", "LogLink"):
        raise NotTranslated(f"gradient boosting with a {link}")
    return graph.as_number(graph.op("Exp", flat) if link == "LogLink" else flat, "FP64")


def _gradient_classifier(graph: Graph, estimator: Any, table: Table) -> Classified:
    return _classified(graph, estimator, _gradient_raw(graph, estimator, table), zero_is_positive=True)


def _histogram_classifier(graph: Graph, estimator: Any, table: Table) -> Classified:
    return _classified(graph, estimator, _histogram_raw(graph, estimator, table), zero_is_positive=False)


def _gradient_regressor(graph: Graph, estimator: Any, table: Table) -> str:
    return _predicted(graph, estimator, _gradient_raw(graph, estimator, table))


def _histogram_regressor(graph: Graph, estimator: Any, table: Table) -> str:
    return _predicted(graph, estimator, _histogram_raw(graph, estimator, table))


TRANSLATORS: Final[Mapping[tuple[Kind, str], Translator]] = {
    ("classifier", "GradientBoostingClassifier"): _gradient_classifier,
    ("classifier", "HistGradientBoostingClassifier"): _histogram_classifier,
    ("regressor", "GradientBoostingRegressor"): _gradient_regressor,
    ("regressor", "HistGradientBoostingRegressor"): _histogram_regressor,
}
