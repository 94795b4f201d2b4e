"""From a fitted estimator to a model: finds each step's translator, and puts the outputs under their public names.

``translate`` is what publish calls. Translators call ``transform``, ``classify`` and ``regress`` for the steps inside
them. An estimator is matched by its exact class, since a subclass may change anything; a step without a translator of
its own is handed to skl2onnx by itself (``foreign.py``), so that it composes with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from keelway.contract.signature import Feature
from keelway.publish.convert.graph import Column, Graph, NotTranslated, Number, Table, strings
from keelway.types import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

Kind = Literal["transformer", "classifier", "regressor"]


@dataclass(frozen=True, slots=True)
class Classified:
    """A translated classifier: tensors in the graph's number type.

    ``index`` is the position of the predicted class, INT64 [-1]. ``probabilities`` is [-1, k], None where the
    estimator has no predict_proba. ``decision`` is what decision_function answers, [-1, 1] for two classes and [-1, m]
    otherwise, None where the estimator has none.
    """

    index: str
    probabilities: str | None = None
    decision: str | None = None


@dataclass(frozen=True, slots=True)
class Translation:
    """A model and what it answers; ``labels`` are the classes in the order of the probabilities."""

    model: ModelProto
    outputs: tuple[TensorSpec, ...]


def translate(estimator: Any, inputs: Sequence[TensorSpec], features: Sequence[Feature], number: Number) -> Translation:
    """The model of ``estimator`` for the packed tensors ``inputs``.

    ``features`` are the estimator's in its own order; each is a column of one of ``inputs``.
    Outputs: ``label`` and ``probabilities`` (or ``scores``) for a classifier, ``prediction`` for a regressor.
    Raises ``NotTranslated``; anything else that a translator or skl2onnx raises is the caller's to catch.
    """
    graph = Graph(inputs, number, {feature.name for feature in features if feature.nullable})
    table = table_of(features, inputs)
    kind = kind_of(estimator)
    if kind == "classifier":
        outputs = classifier_outputs(graph, class_values(estimator.classes_), classify(graph, estimator, table))
    elif kind == "regressor":
        outputs = regressor_outputs(graph, regress(graph, estimator, table))
    else:
        raise NotTranslated("the estimator is neither a classifier nor a regressor")
    return finished(graph, outputs)


def finished(graph: Graph, outputs: Sequence[tuple[str, TensorSpec]]) -> Translation:
    for tensor, spec in outputs:
        graph.output(tensor, spec)
    return Translation(graph.model(), tuple(spec for _, spec in outputs))


def table_of(features: Sequence[Feature], inputs: Sequence[TensorSpec]) -> Table:
    """The columns of ``features``, in their order, wherever they are in ``inputs``."""
    places = {column: Column(spec.name, position) for spec in inputs for position, column in enumerate(spec.columns)}
    return tuple(places[feature.name] for feature in features)


def transform(graph: Graph, estimator: Any, table: Table) -> Table:
    """What ``estimator.transform`` makes of ``table``."""
    if isinstance(estimator, str) or estimator is None:
        if estimator == "drop":
            return ()
        return table  # "passthrough" and, in a pipeline, None
    translator = _translator("transformer", estimator)
    result: Table = translator(graph, estimator, table)
    return result


def classify(graph: Graph, estimator: Any, table: Table) -> Classified:
    result: Classified = _translator("classifier", estimator)(graph, estimator, table)
    return result


def regress(graph: Graph, estimator: Any, table: Table) -> str:
    """The tensor of ``estimator.predict``: [-1], or [-1, m] for several targets."""
    result: str = _translator("regressor", estimator)(graph, estimator, table)
    return result


def kind_of(estimator: Any) -> Kind:
    from sklearn.base import is_classifier, is_regressor

    if is_classifier(estimator):
        return "classifier"
    return "regressor" if is_regressor(estimator) else "transformer"


def class_values(classes: Any) -> tuple[str | int | bool, ...]:
    """The class labels as plain values. Float classes are whole numbers (scikit-learn refuses others) and become int.

    Raises ``NotTranslated`` for several targets or classes of other types.
    """
    if np.ndim(classes) != 1 or not isinstance(classes, np.ndarray):
        raise NotTranslated("a classifier with several targets")
    if classes.dtype.kind == "b":
        return tuple(bool(value) for value in classes)
    if classes.dtype.kind in "iuf":
        return tuple(int(value) for value in classes)
    if all(isinstance(value, str) for value in classes):
        return tuple(str(value) for value in classes)
    raise NotTranslated("class labels that are neither text nor whole numbers")


def label_datatype(labels: Sequence[str | int | float | bool]) -> str:
    """BYTES, BOOL or INT64, after the first label."""
    if isinstance(labels[0], str):
        return "BYTES"
    return "BOOL" if isinstance(labels[0], bool) else "INT64"


def classifier_outputs(
    graph: Graph, labels: Sequence[str | int | float | bool], answer: Classified
) -> list[tuple[str, TensorSpec]]:
    datatype = label_datatype(labels)
    if datatype == "BYTES":
        values = graph.constant(strings(labels), object)  # type: ignore[arg-type]
    else:
        values = graph.constant(labels, np.bool_ if datatype == "BOOL" else np.int64)
    outputs = [(graph.op("Gather", values, answer.index), TensorSpec("label", datatype, (-1,)))]
    if answer.probabilities is not None:
        shape = (-1, len(labels))
        outputs.append((_rounded(graph, answer.probabilities), TensorSpec("probabilities", "FP32", shape)))
    elif answer.decision is not None:
        shape = (-1, graph.widths[answer.decision])
        outputs.append((_rounded(graph, answer.decision), TensorSpec("scores", "FP32", shape)))
    return outputs


def regressor_outputs(graph: Graph, prediction: str) -> list[tuple[str, TensorSpec]]:
    targets = graph.widths.get(prediction)
    shape = (-1,) if targets is None else (-1, targets)
    return [(_rounded(graph, prediction), TensorSpec("prediction", "FP32", shape))]


def _rounded(graph: Graph, tensor: str) -> str:
    return tensor if graph.number == "FP32" else graph.cast(tensor, "FP32")


#: Exact class, as ``module:name`` below sklearn -> the module here that holds its translator. Modules are imported
#: when an estimator needs them, scikit-learn's own classes never.
Translator = Callable[[Graph, Any, Table], Any]

_MODULES: Final = ("compose", "encoders", "scalers", "linear", "trees", "boosting", "ensembles", "neural", "machines")


def _translator(kind: Kind, estimator: Any) -> Translator:
    """The translator of ``estimator`` as ``kind``; skl2onnx, one step at a time, where there is none."""
    name = type(estimator).__name__
    if type(estimator).__module__.partition(".")[0] == "sklearn":
        for module in _MODULES:
            table = import_module(f"keelway.publish.convert.{module}").TRANSLATORS
            found: Translator | None = table.get((kind, name))
            if found is not None:
                return found
    if type(estimator).__module__.partition(".")[0] in ("xgboost", "lightgbm", "catboost"):
        boosted: Translator = getattr(import_module("keelway.publish.convert.boosted"), f"step_{kind}")
        return boosted
    foreign = import_module("keelway.publish.convert.foreign")
    own: Translator = getattr(foreign, kind)
    return own
