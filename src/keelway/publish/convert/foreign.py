"""Steps without a translator here: skl2onnx converts the one step, and its graph is put in line with the rest.

skl2onnx is given one matrix in the graph's number type. What it makes of float64 is not always float64 inside; the
proof says whether that matters.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from keelway.publish.convert.graph import OPSETS, Graph, NotTranslated, Table
from keelway.publish.convert.translate import Classified


def transformer(graph: Graph, estimator: Any, table: Table) -> Table:
    name, datatype, shape = _converted(graph, estimator, table)[0]
    if len(shape) != 2 or shape[1] < 1:
        shape = (-1, _width_of(estimator))
    return graph.table_of(graph.as_number(name, datatype), shape[1])


def classifier(graph: Graph, estimator: Any, table: Table) -> Classified:
    """skl2onnx's own label is not used where there are probabilities or scores to take it from."""
    outputs = _converted(graph, estimator, table)
    if len(outputs) < 2:
        raise NotTranslated(f"skl2onnx's {type(estimator).__name__} answers no scores")
    scores = graph.as_number(outputs[1][0], outputs[1][1])
    index = _index_of_label(graph, estimator, outputs[0][0], outputs[0][1])
    if hasattr(estimator, "predict_proba"):
        return Classified(index, scores)
    graph.widths[scores] = outputs[1][2][-1]
    return Classified(index, None, scores)


def regressor(graph: Graph, estimator: Any, table: Table) -> str:
    name, datatype, shape = _converted(graph, estimator, table)[0]
    result = graph.as_number(name, datatype)
    if shape[1:] in ((), (1,)):
        return graph.op("Reshape", result, graph.integers([-1]))
    graph.widths[result] = shape[1]
    return result


def _converted(graph: Graph, estimator: Any, table: Table) -> list[tuple[str, str, tuple[int, ...]]]:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    kind = FloatTensorType if graph.number == "FP32" else DoubleTensorType
    matrix = graph.matrix(table)
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = convert_sklearn(
                estimator,
                initial_types=[("x", kind([None, len(table)]))],
                options=options,
                target_opset={"": min(OPSETS[""], 20), "ai.onnx.ml": 3},
            )
    except (MissingConverter, MissingShapeCalculator) as error:
        raise NotTranslated(f"no converter for {type(estimator).__name__}") from error
    # What ai.onnx.ml 5 withdrew cannot stand beside the tree operators of this package.
    withdrawn = {node.op_type for node in model.graph.node} & {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}
    if withdrawn:
        raise NotTranslated(f"no converter for {type(estimator).__name__} of trees")
    return graph.inline(model, matrix)


def _width_of(estimator: Any) -> int:
    try:
        return len(estimator.get_feature_names_out())
    except (AttributeError, ValueError) as error:
        raise NotTranslated(f"skl2onnx does not say how many columns {type(estimator).__name__} makes") from error


def _index_of_label(graph: Graph, estimator: Any, label: str, datatype: str) -> str:
    """Positions in ``classes_`` from the labels that skl2onnx answers."""
    import numpy as np
    from onnx import numpy_helper

    from keelway.publish.convert import translate
    from keelway.publish.convert.graph import strings

    labels = translate.class_values(estimator.classes_)
    numbers = [int(value) for value in labels] if datatype != "BYTES" else None
    keys = strings([str(value) for value in labels]) if numbers is None else np.array(numbers, np.int64)
    return graph.op(
        "LabelEncoder",
        graph.op(
            "Reshape", label if datatype in ("BYTES", "INT64") else graph.cast(label, "INT64"), graph.integers([-1])
        ),
        domain="ai.onnx.ml",
        keys_tensor=numpy_helper.from_array(keys),
        values_tensor=numpy_helper.from_array(np.arange(len(labels))),
        default_tensor=numpy_helper.from_array(np.array([0])),
    )
