"""Scikit-learn itself, for models that could not be converted with proof: loads ``model.skops`` and asks the estimator.

A skops file describes its objects instead of running code to make them, and only types that skops knows to be harmless
or that the operator named are made. The packed tensors become the data frame that the estimator was fitted on, with
the dtypes of the sample it was pushed with. ``hosting`` loads it by its entry point.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from keelway.errors import CorruptArtifact, FailedPrecondition, UntrustedArtifact
from keelway.ports import MemberLoader, RuntimeOptions
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("keelway.runtimes")


#: How an estimator takes its columns: by name, as a bare array, or, one column alone, as a series or array of texts.
Given = Literal["frame", "array", "series", "texts"]


class SkopsColumn(msgspec.Struct, frozen=True):
    """A feature of the estimator, in its order, and the pandas dtype it had in the sample."""

    name: str
    dtype: str


class SkopsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest options. ``outputs`` are ``label``, ``probabilities``, ``scores`` or ``prediction``, with shapes.

    ``most_probable`` are the labels in the order of the probabilities, where publishing has proved that the label is
    always that of the largest one: both then come from one call.
    """

    columns: tuple[SkopsColumn, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    given: Given = "frame"
    file: str = "model.skops"
    most_probable: tuple[str | int | float | bool, ...] = ()


class SkopsRuntime:
    """An estimator as a ``Runtime``. Not thread-safe: nothing says that every estimator is."""

    thread_safe = False

    def __init__(self, estimator: Any, options: SkopsOptions) -> None:
        self.inputs = options.inputs
        self.outputs = options.outputs
        self._options = options
        self._places = {
            column: (spec.name, position) for spec in options.inputs for position, column in enumerate(spec.columns)
        }
        ask: dict[str, Callable[[Any], Any]] = {"label": estimator.predict, "prediction": estimator.predict}
        if hasattr(estimator, "predict_proba"):
            ask["probabilities"] = estimator.predict_proba
        if hasattr(estimator, "decision_function"):
            ask["scores"] = estimator.decision_function
        unknown = [spec.name for spec in options.outputs if spec.name not in ask]
        if unknown:
            raise CorruptArtifact(f"the estimator answers no '{unknown[0]}'", hint="push the model again")
        self._ask = {spec.name: ask[spec.name] for spec in options.outputs}
        self._specs = {spec.name: spec for spec in options.outputs}
        self._labels = np.array(options.most_probable, object)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        given = self._given(inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown category is the caller's, once a request
            if len(self._labels) and "label" in outputs:
                return self._most_probable(given, outputs)
            return [self._answer(name, given) for name in outputs]

    def close(self) -> None:
        self._ask.clear()

    def _most_probable(self, given: Any, outputs: Sequence[str]) -> Sequence[Array]:
        shares = self._answer("probabilities", given)
        labels = self._labels[shares.argmax(axis=1)].astype(NUMPY_DTYPES[self._specs["label"].datatype])
        answered = {"label": labels, "probabilities": shares}
        return [answered[name] for name in outputs]

    def _given(self, inputs: Mapping[str, Array]) -> Any:
        import pandas as pd

        if self._options.given == "texts":
            (only,) = self._options.columns
            return np.array([_text(value) for value in self._values(inputs, only.name)], object)
        frame = pd.DataFrame(
            {column.name: _column(self._values(inputs, column.name), column.dtype) for column in self._options.columns}
        )
        return in_form(frame, self._options.given)

    def _values(self, inputs: Mapping[str, Array], column: str) -> Array:
        tensor, position = self._places[column]
        return inputs[tensor][:, position]

    def _answer(self, name: str, given: Any) -> Array:
        spec = self._specs[name]
        answer = np.asarray(self._ask[name](given)).astype(NUMPY_DTYPES[spec.datatype])
        # Two classes have one score a row, which scikit-learn gives without an axis of its own.
        return answer.reshape(-1, 1) if answer.ndim == 1 and len(spec.shape) == 2 else answer


def load(
    folder: Path,
    model_digest: str,
    manifest_options: Mapping[str, Any],
    options: RuntimeOptions,
    load_member: MemberLoader,
) -> SkopsRuntime:
    """The entry point ``skops``.

    Raises ``UntrustedArtifact`` naming the types that the file holds beyond skops' own and ``options.trusted_types``,
    before any is made; ``CorruptArtifact`` for a file or options that cannot be read; ``FailedPrecondition`` if
    scikit-learn, skops or pandas is not installed.
    """
    try:
        declared = msgspec.convert(dict(manifest_options), SkopsOptions)
    except msgspec.ValidationError as error:
        raise CorruptArtifact("the runtime options of the skops model are not valid", hint="push it again") from error
    path = folder / declared.file
    if path.name != declared.file or not path.is_file():
        raise CorruptArtifact("the artifact has no skops file of that name", field="file", hint="push it again")
    return SkopsRuntime(load_estimator(path, options.trusted_types), declared)


def load_estimator(path: Path, trusted: frozenset[str]) -> Any:
    """The object in the skops file ``path``; raises as ``load``."""
    try:
        import pandas as pd
        import sklearn
        from skops import io
    except ImportError as error:
        raise FailedPrecondition(
            "models kept in scikit-learn's own form need scikit-learn, skops and pandas",
            hint='pip install "keelway[skops]"',
        ) from error
    log.debug("scikit-learn %s, pandas %s", sklearn.__version__, pd.__version__)
    try:
        beyond = sorted(set(io.get_untrusted_types(file=path)) - trusted)
    except Exception as error:  # a damaged zip, JSON or schema: skops raises whatever its readers raise
        raise CorruptArtifact("this is not a skops file, or it is damaged", hint="write it again with skops") from error
    if beyond:
        raise UntrustedArtifact(
            f"the model holds types that nobody has trusted: {', '.join(beyond)}",
            field="trusted_types",
            hint="if you know them, say --trust-type NAME for each when pushing, and name them under [runtime] "
            "trusted_types in the server's configuration",
        )
    try:
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            estimator = io.load(path, trusted=sorted(trusted))
    except Exception as error:
        raise CorruptArtifact(
            "the skops file cannot be loaded with the libraries installed here",
            hint="install the scikit-learn version it was written with, or push it again",
        ) from error
    for warning in raised:
        log.warning("loading %s raised %s", path.name, warning.category.__name__)
    return estimator


def in_form(frame: pd.DataFrame, given: Given) -> Any:
    """``frame``, whose columns are the estimator's in its order, in the form that the estimator takes."""
    if given == "frame":
        return frame
    if given == "array":
        return frame.to_numpy()
    column = frame.iloc[:, 0]
    return column if given == "series" else column.to_numpy(object)


def _column(values: Array, dtype: str) -> Any:
    """One column of the frame: ``values`` in the sample's dtype, as far as they fit in it."""
    import pandas as pd

    if values.dtype == object:
        texts = np.array([_text(value) for value in values], dtype=object)
        return pd.Categorical(texts) if dtype == "category" else pd.array(texts, dtype=_text_dtype(dtype))
    if values.dtype.kind == "b":
        return pd.array(values, dtype="boolean") if dtype == "boolean" else values
    if dtype[:1] in ("I", "U", "F"):  # pandas' own nullable numbers
        return pd.array(values, dtype="Float64")
    whole = np.dtype(dtype).kind in "iu" and bool(np.isfinite(values).all()) and bool((values == np.rint(values)).all())
    if whole:
        return values.astype(np.int64)
    return values.astype(np.float32) if dtype in ("float32", "float16") else values


def _text_dtype(dtype: str) -> Any:
    return dtype if dtype in ("str", "string") else object


def _text(value: Any) -> Any:
    if value is None:
        return np.nan
    return value.decode(errors="replace") if isinstance(value, bytes) else value
