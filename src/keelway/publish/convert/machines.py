"""Support vector machines with kernels, as libsvm computes them: a decision for every pair of classes, then votes.

Nearest neighbours are refused here: among equally distant rows scikit-learn's answer depends on how its search tree was
built, and far outside the sample all rows are equally distant in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from keelway.publish.convert import linear
from keelway.publish.convert.graph import Graph, NotTranslated, Table
from keelway.publish.convert.translate import Classified, Kind, Translator
from keelway.types import Array

#: The most numbers (vectors times features) a machine may keep: each row of a batch makes as many differences.
_MAX_KEPT: Final = 200_000

#: libsvm's bounds of a probability, and how near to the solution it stops for two classes.
_LEAST: Final = 1e-7
_NEAR: Final = 0.005 / 2


def _squared_distances(graph: Graph, x: str, vectors: Array) -> str:
    """[-1, vectors], by difference: the shorter formula |x|² - 2xy + |y|² cancels."""
    if vectors.size > _MAX_KEPT:
        raise NotTranslated(f"a support vector machine that keeps more than {_MAX_KEPT:,} numbers")
    away = graph.op("Sub", graph.op("Unsqueeze", x, graph.integers([1])), graph.constant(vectors))
    return graph.op("ReduceSum", graph.op("Mul", away, away), graph.integers([2]), keepdims=0)


def _kernel(graph: Graph, machine: Any, table: Table) -> str:
    """The kernel between each row and each support vector, [-1, vectors]."""
    x, vectors = graph.matrix(table), machine.support_vectors_
    if not isinstance(vectors, np.ndarray) or callable(machine.kernel) or machine.kernel == "precomputed":
        raise NotTranslated("a support vector machine with a kernel of its own, or on sparse rows")
    if machine.kernel == "rbf":
        return graph.op("Exp", graph.op("Mul", _squared_distances(graph, x, vectors), graph.constant(-machine._gamma)))
    product = graph.op("MatMul", x, graph.constant(vectors.T))
    if machine.kernel == "linear":
        return product
    scaled = graph.op("Mul", product, graph.constant(machine._gamma))
    scaled = graph.op("Add", scaled, graph.constant(machine.coef0))
    if machine.kernel == "sigmoid":
        return graph.op("Tanh", scaled)
    return graph.op("Pow", scaled, graph.constant(float(machine.degree)))


def _pairs(graph: Graph, machine: Any, table: Table) -> str:
    """libsvm's decision for every pair of classes (the first of a pair where above zero): [-1, pairs]."""
    classes = len(machine.classes_)
    ends = np.cumsum([0, *machine.n_support_])
    columns = []
    for one in range(classes):
        for other in range(one + 1, classes):
            weights = np.zeros(ends[-1])
            weights[ends[one] : ends[one + 1]] = machine._dual_coef_[other - 1, ends[one] : ends[one + 1]]
            weights[ends[other] : ends[other + 1]] = machine._dual_coef_[one, ends[other] : ends[other + 1]]
            columns.append(weights)
    product = graph.op("MatMul", _kernel(graph, machine, table), graph.constant(np.stack(columns, axis=1)))
    return graph.op("Add", product, graph.constant(machine._intercept_))


def _machine_classifier(graph: Graph, machine: Any, table: Table) -> Classified:
    if machine.break_ties:
        raise NotTranslated("a support vector machine that breaks ties")
    pairs, classes = _pairs(graph, machine, table), len(machine.classes_)
    first = graph.op("Greater", pairs, graph.constant(0.0))
    decision = graph.op("Neg", pairs)
    if classes == 2:
        graph.widths[decision] = 1
        index = linear.index_of_decision(graph, decision, zero_is_positive=True)
    else:
        votes, decision = _votes(graph, machine, first, decision)
        index = graph.op("ArgMax", votes, axis=1, keepdims=0)
    if not hasattr(machine, "predict_proba"):
        return Classified(index, None, decision)
    if classes > 2:
        raise NotTranslated("a support vector machine with probabilities of more than two classes")
    return Classified(index, _platt(graph, machine, pairs), decision)


def _platt(graph: Graph, machine: Any, pair: str) -> str:
    """libsvm's probabilities of two classes from its one decision, [-1, 2].

    libsvm couples pairwise probabilities by iteration (Wu, Lin and Weng 2004) even where there is one pair, and stops
    as soon as it is near, so its answer is not the pairwise probability itself. For two classes Qp is (a s, -b s) with
    s = a p0 - b p1, and from a half each it stops within two rounds (tests/publish shows it for all probabilities).
    """
    one = graph.constant(1.0)
    scaled = graph.op("Mul", pair, graph.constant(machine._probA[0]))
    b = graph.op("Sigmoid", graph.op("Neg", graph.op("Add", scaled, graph.constant(machine._probB[0]))))
    b = graph.op("Clip", b, graph.constant(_LEAST), graph.constant(1 - _LEAST))
    a = graph.op("Sub", one, b)
    shares = (graph.constant(0.5), graph.constant(0.5))
    for _ in range(2):
        first = _slope(graph, a, b, shares)
        square = graph.op("Mul", first, first)
        gaps = (graph.op("Sub", graph.op("Mul", a, first), square), graph.op("Add", graph.op("Mul", b, first), square))
        near = graph.op("Less", graph.op("Max", *(graph.op("Abs", gap) for gap in gaps)), graph.constant(_NEAR))
        moved = _towards(graph, shares, graph.op("Div", graph.op("Neg", gaps[0]), graph.op("Mul", a, a)))
        second = _slope(graph, a, b, moved)
        gap = graph.op("Add", graph.op("Mul", b, second), graph.op("Mul", second, second))
        flipped = _towards(graph, (moved[1], moved[0]), graph.op("Div", gap, graph.op("Mul", b, b)))
        shares = (
            graph.op("Where", near, shares[0], flipped[1]),
            graph.op("Where", near, shares[1], flipped[0]),
        )
    return graph.op("Concat", *shares, axis=1)


def _slope(graph: Graph, a: str, b: str, shares: tuple[str, str]) -> str:
    """s = a p0 - b p1"""
    return graph.op("Sub", graph.op("Mul", a, shares[0]), graph.op("Mul", b, shares[1]))


def _towards(graph: Graph, shares: tuple[str, str], step: str) -> tuple[str, str]:
    """The first share moved by ``step``, both made to sum to one again."""
    total = graph.op("Add", step, graph.constant(1.0))
    return graph.op("Div", graph.op("Add", shares[0], step), total), graph.op("Div", shares[1], total)


def _votes(graph: Graph, machine: Any, first: str, confidences: str) -> tuple[str, str]:
    """The votes of all pairs by class, and scikit-learn's decision_function made of them: [-1, classes] each."""
    classes = len(machine.classes_)
    for_first = np.zeros((classes * (classes - 1) // 2, classes))
    for_second = np.zeros_like(for_first)
    pairs = [(one, other) for one in range(classes) for other in range(one + 1, classes)]
    for row, (one, other) in enumerate(pairs):
        for_first[row, one] = for_second[row, other] = 1.0
    won = graph.as_number(first)
    lost = graph.op("Sub", graph.constant(1.0), won)
    votes = graph.op(
        "Add",
        graph.op("MatMul", won, graph.constant(for_first)),
        graph.op("MatMul", lost, graph.constant(for_second)),
    )
    if machine.decision_function_shape != "ovr":
        decision = graph.op("Neg", confidences)
        graph.widths[decision] = len(pairs)
        return votes, decision
    summed = graph.op("MatMul", confidences, graph.constant(for_second - for_first))
    size = graph.op("Add", graph.op("Abs", summed), graph.constant(1.0))
    squeezed = graph.op("Div", summed, graph.op("Mul", graph.constant(3.0), size))
    decision = graph.op("Add", votes, squeezed)
    graph.widths[decision] = classes
    return votes, decision


def _machine_regressor(graph: Graph, machine: Any, table: Table) -> str:
    weights = np.asarray(machine._dual_coef_).reshape(-1)
    product = graph.op("MatMul", _kernel(graph, machine, table), graph.constant(weights))
    return graph.op("Add", product, graph.constant(machine._intercept_))


def _neighbours(graph: Graph, model: Any, table: Table) -> Any:
    raise NotTranslated("among equally distant neighbours the answer depends on how the search tree was built")


TRANSLATORS: Final[Mapping[tuple[Kind, str], Translator]] = {
    ("classifier", "SVC"): _machine_classifier,
    ("classifier", "NuSVC"): _machine_classifier,
    ("regressor", "SVR"): _machine_regressor,
    ("regressor", "NuSVR"): _machine_regressor,
    ("classifier", "KNeighborsClassifier"): _neighbours,
    ("regressor", "KNeighborsRegressor"): _neighbours,
}
