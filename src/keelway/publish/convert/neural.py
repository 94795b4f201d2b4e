"""Estimators that are a few dense operations: multi-layer perceptrons and naive Bayes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from keelway.publish.convert import linear
from keelway.publish.convert.graph import Graph, NotTranslated, Table
from keelway.publish.convert.translate import Classified, Kind, Translator

_ACTIVATIONS: Final = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}


def _activated(graph: Graph, tensor: str, activation: str) -> str:
    if activation == "identity":
        return tensor
    if activation == "softmax":
        return graph.op("Softmax", tensor, axis=1)
    return graph.op(_ACTIVATIONS[activation], tensor)


def _forward(graph: Graph, network: Any, table: Table) -> tuple[str, str]:
    """The last layer before and after its activation."""
    tensor = graph.matrix(table)
    layers = list(zip(network.coefs_, network.intercepts_, strict=True))
    for position, (weights, bias) in enumerate(layers):
        tensor = graph.op("Add", graph.op("MatMul", tensor, graph.constant(weights)), graph.constant(bias))
        graph.widths[tensor] = len(bias)
        if position < len(layers) - 1:
            tensor = _activated(graph, tensor, network.activation)
    return tensor, _activated(graph, tensor, network.out_activation_)


def _perceptron_classifier(graph: Graph, network: Any, table: Table) -> Classified:
    before, after = _forward(graph, network, table)
    if graph.widths[before] == 1:
        flat = graph.op("Reshape", after, graph.integers([-1]))
        index = graph.cast(graph.op("Greater", flat, graph.constant(0.5)), "INT64")
        return Classified(index, linear.two_columns(graph, after))
    if network.out_activation_ != "softmax":
        raise NotTranslated("a perceptron with several targets")
    return Classified(graph.op("ArgMax", after, axis=1, keepdims=0), after)


def _perceptron_regressor(graph: Graph, network: Any, table: Table) -> str:
    result = _forward(graph, network, table)[1]
    targets = len(network.intercepts_[-1])
    if targets > 1:
        graph.widths[result] = targets
        return result
    return graph.op("Reshape", result, graph.integers([-1]))


def _gaussian(graph: Graph, bayes: Any, table: Table) -> Classified:
    x = graph.op("Unsqueeze", graph.matrix(table), graph.integers([1]))  # [-1, 1, features] beside [classes, features]
    away = graph.op("Sub", x, graph.constant(bayes.theta_))
    squares = graph.op("Div", graph.op("Mul", away, away), graph.constant(bayes.var_))
    distance = graph.op("ReduceSum", squares, graph.integers([2]), keepdims=0)
    start = np.log(bayes.class_prior_) - 0.5 * np.sum(np.log(2.0 * np.pi * bayes.var_), axis=1)
    likelihood = graph.op("Sub", graph.constant(start), graph.op("Mul", graph.constant(0.5), distance))
    index = graph.op("ArgMax", likelihood, axis=1, keepdims=0)
    return Classified(index, graph.op("Softmax", likelihood, axis=1))


TRANSLATORS: Final[Mapping[tuple[Kind, str], Translator]] = {
    ("classifier", "MLPClassifier"): _perceptron_classifier,
    ("regressor", "MLPRegressor"): _perceptron_regressor,
    ("classifier", "GaussianNB"): _gaussian,
}
