"""XGBoost, LightGBM and CatBoost themselves, for models that could not be converted with proof: each in its own format.

The packed tensors become the matrix that the library takes, categories as the codes the model was trained with, and
what it answers becomes labels and probabilities, or numbers. None of these formats runs code when it is opened.
``hosting`` loads it by its entry point; ``publish`` compares it with the original before a model is kept so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from keelway.errors import CorruptArtifact, FailedPrecondition
from keelway.ports import MemberLoader, RuntimeOptions
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

Library = Literal["xgboost", "lightgbm", "catboost"]

#: How people write each library, and the extra of keelway that brings it.
NAMES: Final[Mapping[str, str]] = {"xgboost": "XGBoost", "lightgbm": "LightGBM", "catboost": "CatBoost"}
EXTRAS: Final[Mapping[str, str]] = {"xgboost": "boosters", "lightgbm": "boosters", "catboost": "catboost"}


class BoosterColumn(msgspec.Struct, frozen=True):
    """A feature of the model. A text or number of ``categories`` is given to it as its position there; any other, and a
    missing one, as missing. ``as_text``: CatBoost takes the category itself."""

    name: str
    categories: tuple[str | int | float, ...] | None = None
    as_text: bool = False


class BoosterOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest options. ``outputs`` are ``label`` and ``probabilities``, or ``prediction``, with shapes.

    ``columns`` are in the model's order. ``labels`` are the classes in the order of the probabilities. ``missing`` is a
    number that stands for a missing one beside NaN (XGBoost). ``prediction_type`` is CatBoost's, for ``prediction``.
    """

    library: Library
    file: str
    columns: tuple[BoosterColumn, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str | int | float | bool, ...] = ()
    missing: float | None = None
    prediction_type: str = "RawFormulaVal"


class BoostersRuntime:
    """A native model as a ``Runtime``. Thread-safe for XGBoost's trees, whose in-place prediction is documented so; the
    others promise nothing."""

    def __init__(self, path: Path, options: BoosterOptions, threads: int = 1) -> None:
        self.inputs = options.inputs
        self.outputs = options.outputs
        self._specs = {spec.name: spec for spec in options.outputs}
        self._labels = np.array(
            options.labels, object if options.labels and isinstance(options.labels[0], str) else None
        )
        self._matrix = _Matrix(options)
        self._model: Any = _OPENERS[options.library](path, options, threads)
        self.thread_safe: bool = self._model.thread_safe

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        given = self._matrix.of(inputs)
        if "prediction" in self._specs:
            answered = {"prediction": self._model.predict(given)}
        else:
            answered = self._classified(given, outputs)
        return [np.asarray(answered[name]).astype(NUMPY_DTYPES[self._specs[name].datatype]) for name in outputs]

    def close(self) -> None:
        self._model = None

    def _classified(self, given: Array, outputs: Sequence[str]) -> dict[str, Array]:
        if hasattr(self._model, "classes"):  # CatBoost decides by a threshold of its own
            asked = {"label": self._model.classes, "probabilities": self._model.predict}
            return {name: asked[name](given) for name in outputs}
        shares = self._model.predict(given)
        if shares.ndim == 1:
            return {
                "label": self._labels[(shares > 0.5).astype(int)],
                "probabilities": np.stack([1 - shares, shares], 1),
            }
        return {"label": self._labels[shares.argmax(axis=1)], "probabilities": shares}


class _Matrix:
    """From packed tensors to the rows a library takes: float64 [n, k], or objects where CatBoost takes categories."""

    def __init__(self, options: BoosterOptions) -> None:
        self._columns = options.columns
        self._places = {
            column: (spec.name, position) for spec in options.inputs for position, column in enumerate(spec.columns)
        }
        self._codes = {
            column.name: {_key(category): float(code) for code, category in enumerate(column.categories)}
            for column in options.columns
            if column.categories is not None
        }
        self._as_text = any(column.as_text for column in options.columns)
        first = options.inputs[0]
        in_order = first.columns == tuple(column.name for column in options.columns)
        # One tensor of numbers in the model's order is handed on as it is.
        self._whole = "" if self._codes or self._as_text or not in_order else first.name

    def of(self, inputs: Mapping[str, Array]) -> Array:
        if self._whole and inputs[self._whole].dtype.kind == "f":
            return inputs[self._whole]
        rows = len(next(iter(inputs.values())))
        matrix = np.empty((rows, len(self._columns)), object if self._as_text else np.float64)
        for at, column in enumerate(self._columns):
            tensor, position = self._places[column.name]
            values = inputs[tensor][:, position]
            if column.as_text:
                matrix[:, at] = [_category(value) for value in values.tolist()]
            elif column.categories is not None:
                codes = self._codes[column.name]
                matrix[:, at] = [codes.get(_key(value), np.nan) for value in values.tolist()]
            else:
                matrix[:, at] = values
        return matrix


def _key(value: Any) -> Any:
    """A category as it is looked up: text as text, numbers of any type as float."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if value is None or isinstance(value, str) else float(value)


def _category(value: Any) -> Any:
    """A category as CatBoost takes it: text, or a whole number. Anything else it refuses by itself."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return np.nan if value is None else value


class _XGBoost:
    def __init__(self, path: Path, options: BoosterOptions, threads: int) -> None:
        library = import_library("xgboost")
        booster = library.Booster({"nthread": threads, "verbosity": 0}, model_file=path)
        learner = json.loads(booster.save_config())["learner"]
        if learner["objective"]["name"] == "multi:softmax":  # the same model, asked for probabilities
            booster.set_param({"objective": "multi:softprob"})
        self.thread_safe = learner["gradient_booster"]["name"] in ("gbtree", "dart")
        self._missing = np.nan if options.missing is None else options.missing
        self._booster = booster
        self._matrix = library.DMatrix

    def predict(self, given: Array) -> Array:
        if self.thread_safe:
            answer: Array = self._booster.inplace_predict(given, missing=self._missing)
        else:
            answer = self._booster.predict(self._matrix(given, missing=self._missing), validate_features=False)
        return answer


class _LightGBM:
    thread_safe = False

    def __init__(self, path: Path, options: BoosterOptions, threads: int) -> None:
        self._booster = import_library("lightgbm").Booster(model_file=path)
        self._threads = threads

    def predict(self, given: Array) -> Array:
        answer: Array = self._booster.predict(given, num_threads=self._threads)
        return answer


class _CatBoost:
    thread_safe = False

    def __init__(self, path: Path, options: BoosterOptions, threads: int) -> None:
        library = import_library("catboost")
        classifies = bool(options.labels)
        self._model = (library.CatBoostClassifier if classifies else library.CatBoost)().load_model(str(path))
        self._type = "Probability" if classifies else options.prediction_type
        self._threads = threads
        if classifies:
            self.classes = self._classes

    def predict(self, given: Array) -> Array:
        answer: Array = self._model.predict(given, prediction_type=self._type, thread_count=self._threads)
        return answer

    def _classes(self, given: Array) -> Array:
        return np.ravel(self._model.predict(given, prediction_type="Class", thread_count=self._threads))


_OPENERS: Final[Mapping[Library, Callable[[Path, BoosterOptions, int], Any]]] = {
    "xgboost": _XGBoost,
    "lightgbm": _LightGBM,
    "catboost": _CatBoost,
}


def import_library(name: Library) -> Any:
    """The module ``name``. Raises ``FailedPrecondition`` with the extra to install if it is absent."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise FailedPrecondition(
            f"{NAMES[name]} models need {NAMES[name]}, which is not installed",
            hint=f'pip install "keelway[{EXTRAS[name]}]"',
        ) from error


def load(
    folder: Path,
    model_digest: str,
    manifest_options: Mapping[str, Any],
    options: RuntimeOptions,
    load_member: MemberLoader,
) -> BoostersRuntime:
    """The entry point ``boosters``. A run uses ``options.threads`` threads.

    Raises ``CorruptArtifact`` for a file or options that cannot be read, ``FailedPrecondition`` if the library is not
    installed.
    """
    try:
        declared = msgspec.convert(dict(manifest_options), BoosterOptions)
    except msgspec.ValidationError as error:
        raise CorruptArtifact("the runtime options of the model are not valid", hint="push it again") from error
    path = folder / declared.file
    if path.name != declared.file or not path.is_file():
        raise CorruptArtifact("the artifact has no model file of that name", field="file", hint="push it again")
    import_library(declared.library)
    try:
        return BoostersRuntime(path, declared, options.threads)
    except Exception as error:  # each library has an error of its own, and raises others too
        raise CorruptArtifact(
            f"{NAMES[declared.library]} cannot load the model with the version installed here",
            hint=f"install the {NAMES[declared.library]} version it was pushed with, or push it again",
        ) from error
