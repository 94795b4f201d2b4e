"""Estimators that combine others: votes, averages, calibrated classifiers, bags and stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from keelway.publish.convert import linear, translate
from keelway.publish.convert.graph import Graph, NotTranslated, Table
from keelway.publish.convert.translate import Classified, Kind, Translator


def _average(graph: Graph, parts: Sequence[str], weights: Sequence[float] | None) -> str:
    """``numpy.average`` over equally shaped tensors, in its order: weighted terms added one by one, then divided."""
    if weights is None:
        weights = [1.0] * len(parts)
    total = ""
    for part, weight in zip(parts, weights, strict=True):
        term = part if weight == 1 else graph.op("Mul", part, graph.constant(weight))
        total = graph.op("Add", total, term) if total else term
    return graph.op("Div", total, graph.constant(float(sum(weights))))


def _first_largest(graph: Graph, shares: str) -> str:
    return graph.op("ArgMax", shares, axis=1, keepdims=0)


# Voting


def _voting_classifier(graph: Graph, voting: Any, table: Table) -> Classified:
    answers = [translate.classify(graph, estimator, table) for estimator in voting.estimators_]
    weights = voting._weights_not_none
    if voting.voting == "hard":
        classes = graph.integers(np.arange(len(voting.classes_)))
        column = graph.integers([1])
        votes = [
            graph.as_number(graph.op("Equal", graph.op("Unsqueeze", answer.index, column), classes))
            for answer in answers
        ]
        shares = _average(graph, votes, weights)
        return Classified(_first_largest(graph, shares))
    shares = _average(graph, [_certain(answer.probabilities) for answer in answers], weights)
    return Classified(_first_largest(graph, shares), shares)


def _voting_regressor(graph: Graph, voting: Any, table: Table) -> str:
    parts = [translate.regress(graph, estimator, table) for estimator in voting.estimators_]
    return _average(graph, parts, voting._weights_not_none)


def _certain(tensor: str | None) -> str:
    if tensor is None:
        raise NotTranslated("a member of an ensemble without probabilities")
    return tensor


# Calibration


def _calibrated(graph: Graph, calibrated: Any, table: Table) -> Classified:
    answers: dict[int, Classified] = {}  # with ensemble=False, or prefit, the members share one estimator
    parts = []
    for member in calibrated.calibrated_classifiers_:
        inner = member.estimator
        if id(inner) not in answers:
            answers[id(inner)] = translate.classify(graph, inner, table)
        parts.append(_calibrated_member(graph, member, answers[id(inner)]))
    shares = _average(graph, parts, None) if len(parts) > 1 else parts[0]
    return Classified(_first_largest(graph, shares), shares)


def _calibrated_member(graph: Graph, member: Any, answer: Classified) -> str:
    classes = len(member.classes)
    if len(member.estimator.classes_) != classes:
        raise NotTranslated("a calibrated classifier that saw some of the classes only")
    if member.method == "temperature":
        return _tempered(graph, member, answer)
    response = answer.decision
    if response is None:
        response = _certain(answer.probabilities)
        if classes == 2:
            response = graph.op("Gather", response, graph.integers([1]), axis=1)
    if classes == 2:
        return linear.two_columns(graph, _calibrator(graph, member.calibrators[0], response))
    columns = [
        _calibrator(graph, calibrator, graph.op("Gather", response, graph.integers([position]), axis=1))
        for position, calibrator in enumerate(member.calibrators)
    ]
    return linear.normalised(graph, graph.op("Concat", *columns, axis=1), classes)


def _calibrator(graph: Graph, calibrator: Any, response: str) -> str:
    """``response`` [-1, 1] through a Platt or an isotonic calibrator."""
    if type(calibrator).__name__ == "_SigmoidCalibration":
        scaled = graph.op("Mul", graph.constant(calibrator.a_), response)
        return graph.op("Sigmoid", graph.op("Neg", graph.op("Add", scaled, graph.constant(calibrator.b_))))
    return _isotonic(graph, calibrator, response)


def _isotonic(graph: Graph, isotonic: Any, response: str) -> str:
    """Straight lines between the thresholds; outside them the nearest end."""
    if isotonic.out_of_bounds != "clip":
        raise NotTranslated("an isotonic regression that does not clip")
    x, y = (np.asarray(values, np.float64) for values in (isotonic.X_thresholds_, isotonic.y_thresholds_))
    if len(x) == 1:
        return graph.op("Add", graph.op("Mul", response, graph.constant(0.0)), graph.constant(y[0]))
    clipped = graph.op("Clip", response, graph.constant(x[0]), graph.constant(x[-1]))
    # The segment a value lies in: as many inner thresholds as are below it (scipy searches on the left).
    passed = graph.op("Greater", clipped, graph.constant(x[1:-1]))
    segment = graph.op("ReduceSum", graph.cast(passed, "INT64"), graph.integers([1]))
    start, height, slope = (
        graph.op("Gather", graph.constant(values), segment) for values in (x[:-1], y[:-1], np.diff(y) / np.diff(x))
    )
    return graph.op("Add", graph.op("Mul", slope, graph.op("Sub", clipped, start)), height)


def _tempered(graph: Graph, member: Any, answer: Classified) -> str:
    logits = answer.decision
    if logits is None:
        shares = _certain(answer.probabilities)
        logits = graph.op("Log", graph.op("Add", shares, graph.constant(1e-12)))
    elif graph.widths[logits] == 1:
        logits = graph.op("Concat", graph.op("Neg", logits), logits, axis=1)
    else:
        # scikit-learn takes scores that happen to look like probabilities for probabilities, batch by batch.
        raise NotTranslated("temperature scaling of several scores")
    return graph.op("Softmax", graph.op("Mul", graph.constant(member.calibrators[0].beta_), logits), axis=1)


# Bags and stacks


def _members(bag: Any, table: Table) -> list[tuple[Any, Table]]:
    return [
        (estimator, tuple(table[int(position)] for position in features))
        for estimator, features in zip(bag.estimators_, bag.estimators_features_, strict=True)
    ]


def _bagging_classifier(graph: Graph, bag: Any, table: Table) -> Classified:
    parts = []
    for estimator, chosen in _members(bag, table):
        answer = translate.classify(graph, estimator, chosen)
        if answer.probabilities is None or len(estimator.classes_) != len(bag.classes_):
            raise NotTranslated("a bag whose members have no probabilities, or not of every class")
        parts.append(answer.probabilities)
    shares = _average(graph, parts, None)
    return Classified(_first_largest(graph, shares), shares)


def _bagging_regressor(graph: Graph, bag: Any, table: Table) -> str:
    parts = [translate.regress(graph, estimator, chosen) for estimator, chosen in _members(bag, table)]
    return _average(graph, parts, None)


def _stacked(graph: Graph, stack: Any, table: Table) -> Table:
    joined: Table = ()
    for method, estimator in zip(stack.stack_method_, stack.estimators_, strict=True):
        if method == "predict":
            if translate.kind_of(estimator) == "classifier":
                raise NotTranslated("a stack on predicted classes")
            flat = translate.regress(graph, estimator, table)
            if flat in graph.widths:
                raise NotTranslated("a stack of several targets")
            joined += graph.table_of(graph.op("Unsqueeze", flat, graph.integers([1])), 1)
            continue
        answer = translate.classify(graph, estimator, table)
        if method == "decision_function":
            decision = _certain(answer.decision)
            joined += graph.table_of(decision, graph.widths[decision])
            continue
        shares = graph.table_of(_certain(answer.probabilities), len(estimator.classes_))
        joined += shares[1:] if len(shares) == 2 else shares  # of two columns scikit-learn drops the first
    return joined + table if stack.passthrough else joined


def _stacking_classifier(graph: Graph, stack: Any, table: Table) -> Classified:
    return translate.classify(graph, stack.final_estimator_, _stacked(graph, stack, table))


def _stacking_regressor(graph: Graph, stack: Any, table: Table) -> str:
    return translate.regress(graph, stack.final_estimator_, _stacked(graph, stack, table))


# AdaBoost


def _ada_classifier(graph: Graph, ada: Any, table: Table) -> Classified:
    """SAMME: each member adds its weight to the class it names and takes its share from the others."""
    if getattr(ada, "algorithm", "SAMME") == "SAMME.R":
        raise NotTranslated("AdaBoost with SAMME.R")
    classes = len(ada.classes_)
    numbers, column = graph.integers(np.arange(classes)), graph.integers([1])
    total = ""
    for estimator, weight in zip(ada.estimators_, ada.estimator_weights_, strict=False):
        if len(estimator.classes_) != classes:
            raise NotTranslated("AdaBoost with a member that saw some of the classes only")
        index = translate.classify(graph, estimator, table).index
        named = graph.op("Equal", graph.op("Unsqueeze", index, column), numbers)
        term = graph.op("Where", named, graph.constant(weight), graph.constant(-1 / (classes - 1) * weight))
        total = graph.op("Add", total, term) if total else term
    decision = graph.op("Div", total, graph.constant(ada.estimator_weights_.sum()))
    graph.widths[decision] = classes
    if classes > 2:
        shares = graph.op("Softmax", graph.op("Div", decision, graph.constant(float(classes - 1))), axis=1)
        return Classified(linear.index_of_decision(graph, decision), shares, decision)
    signed = graph.op("Mul", decision, graph.constant([-1.0, 1.0]))
    one = graph.op("ReduceSum", signed, column)
    graph.widths[one] = 1
    return Classified(linear.index_of_decision(graph, one), linear.probabilities_of(graph, one), one)


TRANSLATORS: Final[Mapping[tuple[Kind, str], Translator]] = {
    ("classifier", "VotingClassifier"): _voting_classifier,
    ("regressor", "VotingRegressor"): _voting_regressor,
    ("classifier", "CalibratedClassifierCV"): _calibrated,
    ("classifier", "AdaBoostClassifier"): _ada_classifier,
    ("classifier", "BaggingClassifier"): _bagging_classifier,
    ("regressor", "BaggingRegressor"): _bagging_regressor,
    ("classifier", "StackingClassifier"): _stacking_classifier,
    ("regressor", "StackingRegressor"): _stacking_regressor,
}
