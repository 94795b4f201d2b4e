"""Which inference route a path is: the model, the version or alias, the codec and the form of its errors.

A pure function of the path with a small memory, since the same few paths come again and again.
"""

from __future__ import annotations

from typing import NamedTuple

from keelway.codecs.json import OpenInferenceCodec
from keelway.codecs.mlflow import MlflowCodec
from keelway.codecs.rows import RowCodec
from keelway.codecs.tensorflow import TensorFlowCodec
from keelway.ports import Codec
from keelway.transports.rest.errors import ErrorBody, mlflow_error, problem, protocol_error

_REMEMBERED = 1024


class InferenceRoute(NamedTuple):
    """``model`` is ``None`` on the short routes, which answer for the only model served. ``transport`` is the metric
    label of the route family; ``names_version`` says that its answers name the version in their body."""

    model: str | None
    selector: str | None
    codec: Codec
    error_body: ErrorBody
    transport: str
    names_version: bool


class InferencePaths:
    """``max_nesting`` is that of the JSON codecs."""

    def __init__(self, max_nesting: int) -> None:
        self._open_inference = OpenInferenceCodec(max_nesting)
        self._rows = RowCodec(max_nesting)
        self._tensorflow = TensorFlowCodec(max_nesting)
        self._mlflow = MlflowCodec(max_nesting)
        self._known: dict[str, InferenceRoute | None] = {}

    def find(self, path: str) -> InferenceRoute | None:
        """The inference route of ``path``, or ``None`` if it is none."""
        known = self._known
        if path in known:
            return known[path]
        if len(known) >= _REMEMBERED:
            known.clear()
        route = known[path] = self._parse(path)
        return route

    def _parse(self, path: str) -> InferenceRoute | None:
        match path.split("/")[1:]:
            case ["v2", "models", model, "infer"]:
                return InferenceRoute(model, None, self._open_inference, protocol_error, "rest_v2", True)
            case ["v2", "models", model, "versions", selector, "infer"]:
                return InferenceRoute(model, selector, self._open_inference, protocol_error, "rest_v2", True)
            case ["v1", "models", model, "predict"]:
                return InferenceRoute(model, None, self._rows, problem, "rest_v1", True)
            case ["v1", "models", model, "versions", selector, "predict"]:
                return InferenceRoute(model, selector, self._rows, problem, "rest_v1", True)
            case ["predict"]:
                return InferenceRoute(None, None, self._rows, problem, "rest_v1", True)
            case ["invocations"]:
                return InferenceRoute(None, None, self._mlflow, mlflow_error, "rest_mlflow", False)
            case ["v1", "models", model] if model.endswith(":predict"):
                return self._tensorflow_route(model, None)
            case ["v1", "models", model, "versions" | "labels", selector] if selector.endswith(":predict"):
                return self._tensorflow_route(model, selector.removesuffix(":predict"))
        return None

    def _tensorflow_route(self, model: str, selector: str | None) -> InferenceRoute:
        return InferenceRoute(
            model.removesuffix(":predict"), selector, self._tensorflow, protocol_error, "rest_tensorflow", False
        )
