"""Linear models: one matrix product, and the link that each estimator puts behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from keelway.publish.convert.graph import Graph, NotTranslated, Table
from keelway.publish.convert.translate import Classified, Kind, Translator


def decision_of(graph: Graph, estimator: Any, table: Table) -> str:
    """``LinearClassifierMixin.decision_function``: [-1, 1] for two classes, [-1, k] otherwise."""
    coefficients = np.atleast_2d(_dense(estimator.coef_))
    scores = graph.op("MatMul", graph.matrix(table), graph.constant(coefficients.T))
    scores = graph.op("Add", scores, graph.constant(np.atleast_1d(estimator.intercept_)))
    graph.widths[scores] = len(coefficients)
    return scores


def index_of_decision(graph: Graph, decision: str, zero_is_positive: bool = False) -> str:
    """The class a decision stands for: the first largest, or for two classes whether it is above zero."""
    if graph.widths[decision] > 1:
        return graph.op("ArgMax", decision, axis=1, keepdims=0)
    flat = graph.op("Reshape", decision, graph.integers([-1]))
    above = graph.op("GreaterOrEqual" if zero_is_positive else "Greater", flat, graph.constant(0.0))
    return graph.cast(above, "INT64")


def two_columns(graph: Graph, positive: str) -> str:
    """[1 - p, p] from p of shape [-1, 1]."""
    return graph.op("Concat", graph.op("Sub", graph.constant(1.0), positive), positive, axis=1)


def probabilities_of(graph: Graph, decision: str) -> str:
    """The logistic function of one decision, or the softmax of several."""
    if graph.widths[decision] == 1:
        return two_columns(graph, graph.op("Sigmoid", decision))
    return graph.op("Softmax", decision, axis=1)


def normalised(graph: Graph, parts: str, classes: int) -> str:
    """Rows of ``parts`` divided by their sum; a row of zeros becomes uniform."""
    total = graph.op("ReduceSum", parts, graph.integers([1]))
    nothing = graph.op("Equal", total, graph.constant(0.0))
    divided = graph.op("Div", parts, graph.op("Where", nothing, graph.constant(1.0), total))
    return graph.op("Where", nothing, graph.constant(1.0 / classes), divided)


def _one_versus_rest(graph: Graph, decision: str) -> str:
    if graph.widths[decision] == 1:
        return probabilities_of(graph, decision)
    return normalised(graph, precise_sigmoid(graph, decision), graph.widths[decision])


def precise_sigmoid(graph: Graph, x: str) -> str:
    """The logistic function as SciPy computes it. Small values are exact relative to themselves, and become zero where
    SciPy's do: what is normalised next may all be tiny. ONNX Runtime's own Sigmoid is only exact in absolute terms."""
    return graph.op(
        "Div", graph.constant(1.0), graph.op("Add", graph.op("Exp", graph.op("Neg", x)), graph.constant(1.0))
    )


def _logistic(graph: Graph, estimator: Any, table: Table) -> Classified:
    decision = decision_of(graph, estimator, table)
    multi_class = getattr(estimator, "multi_class", "auto")  # gone since scikit-learn 1.8
    one_versus_rest = multi_class == "ovr" or (multi_class != "multinomial" and estimator.solver == "liblinear")
    if multi_class == "multinomial" and graph.widths[decision] == 1:
        raise NotTranslated("a multinomial LogisticRegression of two classes")
    link = _one_versus_rest if one_versus_rest else probabilities_of
    return Classified(index_of_decision(graph, decision), link(graph, decision), decision)


def _discriminant(graph: Graph, estimator: Any, table: Table) -> Classified:
    decision = decision_of(graph, estimator, table)
    return Classified(index_of_decision(graph, decision), probabilities_of(graph, decision), decision)


def _without_probabilities(graph: Graph, estimator: Any, table: Table) -> Classified:
    decision = decision_of(graph, estimator, table)
    return Classified(index_of_decision(graph, decision), None, decision)


def _stochastic(graph: Graph, estimator: Any, table: Table) -> Classified:
    decision = decision_of(graph, estimator, table)
    probabilities = None
    if estimator.loss == "log_loss":
        probabilities = _one_versus_rest(graph, decision)
    elif estimator.loss == "modified_huber":
        clipped = graph.op("Clip", decision, graph.constant(-1.0), graph.constant(1.0))
        parts = graph.op("Div", graph.op("Add", clipped, graph.constant(1.0)), graph.constant(2.0))
        several = graph.widths[decision] > 1
        probabilities = normalised(graph, parts, graph.widths[decision]) if several else two_columns(graph, parts)
    return Classified(index_of_decision(graph, decision), probabilities, decision)


def _regression(graph: Graph, estimator: Any, table: Table) -> str:
    coefficients = _dense(estimator.coef_)
    product = graph.op("MatMul", graph.matrix(table), graph.constant(coefficients.T))
    result = graph.op("Add", product, graph.constant(_intercept(estimator.intercept_, coefficients)))
    if coefficients.ndim == 2:
        graph.widths[result] = len(coefficients)
    return result


def _generalised(graph: Graph, estimator: Any, table: Table) -> str:
    link = type(estimator._base_loss.link).__name__
    if link not in ("LogLink", "IdentityLink"):
        raise NotTranslated(f"a generalised linear model with a {link}")
    result = _regression(graph, estimator, table)
    return graph.op("Exp", result) if link == "LogLink" else result


def _intercept(intercept: Any, coefficients: Any) -> Any:
    # SGDRegressor and LinearSVR keep an array of one beside coefficients of one dimension.
    return np.reshape(intercept, ()) if coefficients.ndim == 1 else np.atleast_1d(intercept)


def _dense(coefficients: Any) -> Any:
    return coefficients.toarray() if hasattr(coefficients, "toarray") else np.asarray(coefficients)


_REGRESSORS: Final = (
    "ARDRegression",
    "BayesianRidge",
    "ElasticNet",
    "ElasticNetCV",
    "HuberRegressor",
    "Lars",
    "LarsCV",
    "Lasso",
    "LassoCV",
    "LassoLars",
    "LassoLarsCV",
    "LassoLarsIC",
    "LinearRegression",
    "LinearSVR",
    "MultiTaskElasticNet",
    "MultiTaskLasso",
    "OrthogonalMatchingPursuit",
    "PassiveAggressiveRegressor",
    "QuantileRegressor",
    "Ridge",
    "RidgeCV",
    "SGDRegressor",
    "TheilSenRegressor",
)

TRANSLATORS: Final[Mapping[tuple[Kind, str], Translator]] = {
    ("classifier", "LogisticRegression"): _logistic,
    ("classifier", "LogisticRegressionCV"): _logistic,
    ("classifier", "LinearDiscriminantAnalysis"): _discriminant,
    ("classifier", "SGDClassifier"): _stochastic,
    **{
        ("classifier", name): _without_probabilities
        for name in ("LinearSVC", "PassiveAggressiveClassifier", "Perceptron", "RidgeClassifier", "RidgeClassifierCV")
    },
    **{("regressor", name): _regression for name in _REGRESSORS},
    **{("regressor", name): _generalised for name in ("GammaRegressor", "PoissonRegressor", "TweedieRegressor")},
}
