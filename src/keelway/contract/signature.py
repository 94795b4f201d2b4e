"""The signature of a model: the features people name, the tensors the model takes, and what it answers.

A signature says what fits, nothing of what was seen (that is the baseline) or what is allowed (the constraints). It is
part of the model digest. ``infer_features`` and ``pack`` make its input side from a sample and
``validate_signature`` judges a whole one; ``keelway push`` is the usual caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from keelway.contract.sample import column_kind, column_names, numbers
from keelway.errors import InvalidInput
from keelway.types import NUMPY_DTYPES, TensorSpec

if TYPE_CHECKING:
    import pandas as pd

Task = Literal["classification", "regression", "other"]

#: A missing number is NaN and a missing text ``None``; integers and booleans have no such value.
_NULLABLE_DATATYPES = frozenset({"FP16", "FP32", "FP64", "BYTES"})


class Feature(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value of a row, as a person names it.

    ``datatype`` is what the caller sends; ``shape`` is that of one row's value, () for a scalar. ``nullable`` is
    whether a missing value (JSON null, NaN) may stand there.
    """

    name: str
    datatype: str
    nullable: bool = False
    shape: tuple[int, ...] = ()


class ModelSignature(msgspec.Struct, frozen=True, omit_defaults=True):
    """``features`` in positional order; ``inputs`` and ``outputs`` are the model's own tensors.

    Every feature is either a column of one packed input tensor or an input tensor of its own (same name). ``labels``
    are the class labels in the order of the columns of ``probabilities``. ``label_output`` and
    ``probability_output`` name the outputs that carry the predicted value and the probabilities.
    """

    features: tuple[Feature, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: Task = "other"
    labels: tuple[str | int | float | bool, ...] = ()
    label_output: str = ""
    probability_output: str = ""

    @property
    def batched(self) -> bool:
        """Whether every input and output has a leading batch axis (-1). A model without one is never batched."""
        return all(spec.shape[:1] == (-1,) for spec in (*self.inputs, *self.outputs))


def infer_features(frame: pd.DataFrame, number: Literal["FP32", "FP64"] = "FP32") -> tuple[Feature, ...]:
    """The features a sample shows, one scalar per column, in column order; names become text.

    Integer and float columns of any width become ``number``, booleans BOOL, strings BYTES, and a categorical column
    what its categories are. FP32 is the default because all numbers are packed into one tensor (``pack``) and tree
    models compare in float32: scikit-learn casts to it before it walks a tree, and so do XGBoost and ONNX's tree
    operators. Integers beyond 2**24 lose digits in it; say FP64 where they matter. ``nullable`` is whether a missing
    value occurs in the sample.

    Raises ``InvalidInput`` naming the column for a column that is none of these (``column_kind`` lists them), for a
    boolean column with missing values, and for empty or repeated names.
    """
    names = column_names(frame.columns)
    columns = (frame.iloc[:, position].rename(name) for position, name in enumerate(names))
    return tuple(_infer_feature(column, name, number) for name, column in zip(names, columns, strict=True))


def pack(features: Sequence[Feature]) -> tuple[TensorSpec, ...]:
    """The input tensors for ``features``: scalars of one datatype become the columns of one tensor of shape (-1, n).

    It is called ``input``, or ``input_fp32``, ``input_bytes`` ... where there are several datatypes, in the order in
    which the datatypes first appear; an underscore is added while a feature has that name. A feature with a shape
    of its own becomes a tensor of its own, of shape (-1, *shape), after the packed ones.
    """
    groups: dict[str, list[str]] = {}
    for feature in features:
        if not feature.shape:
            groups.setdefault(feature.datatype, []).append(feature.name)
    taken = {feature.name for feature in features}
    packed = []
    for datatype, columns in groups.items():
        name = _free_name("input" if len(groups) == 1 else f"input_{datatype.lower()}", taken)
        packed.append(TensorSpec(name, datatype, (-1, len(columns)), tuple(columns)))
    own = [TensorSpec(feature.name, feature.datatype, (-1, *feature.shape)) for feature in features if feature.shape]
    return (*packed, *own)


def validate_signature(signature: ModelSignature) -> None:
    """Raise ``InvalidInput`` unless ``signature`` keeps what its docstring promises.

    Names are present and unique, datatypes known, and every feature is either one column of one packed tensor or a
    tensor of its own, of the same datatype and a fitting shape; nothing is left over on either side.
    """
    for what, specs in (("input", signature.inputs), ("output", signature.outputs)):
        if not specs:
            raise InvalidInput(f"the signature has no {what}", hint=f"declare at least one {what} tensor")
        _check_names(what, (spec.name for spec in specs))
        for spec in specs:
            _check_tensor(what, spec)
    _check_names("feature", (feature.name for feature in signature.features))
    _check_coverage(signature)
    for field, name in (("label_output", signature.label_output), ("probability_output", signature.probability_output)):
        if name and name not in {spec.name for spec in signature.outputs}:
            raise InvalidInput(
                f"{field} names '{name}', which is no output", field=field, hint="name one of the outputs"
            )


def _infer_feature(column: pd.Series[Any], name: str, number: Literal["FP32", "FP64"]) -> Feature:
    kind = column_kind(column)
    if kind == "number":
        return Feature(name, number, nullable=bool(np.isnan(numbers(column)).any()))
    nullable = bool(column.isna().any())
    if kind == "boolean" and nullable:
        raise InvalidInput(
            f"column '{name}' holds booleans and missing values; a boolean tensor has no missing value",
            field=name,
            hint="fill the gaps, or make it a number (1, 0, missing) with astype('Float32')",
        )
    return Feature(name, "BOOL" if kind == "boolean" else "BYTES", nullable=nullable)


def _free_name(name: str, taken: set[str]) -> str:
    # A tensor and a feature of one name could not be told apart in a request that names its inputs.
    while name in taken:
        name += "_"
    return name


def _check_names(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if not name:
            raise InvalidInput(f"the signature has a nameless {what}", hint="name it")
        if count > 1:
            raise InvalidInput(f"the {what} '{name}' occurs more than once", field=name, hint="rename one of them")


def _check_tensor(what: str, spec: TensorSpec) -> None:
    if spec.datatype not in NUMPY_DTYPES:
        raise InvalidInput(
            f"the {what} '{spec.name}' has an unknown datatype",
            field=spec.name,
            hint=f"use one of {', '.join(NUMPY_DTYPES)}",
        )
    if any(size < 1 and size != -1 for size in spec.shape):
        raise InvalidInput(
            f"the {what} '{spec.name}' has an axis shorter than 1", field=spec.name, hint="write -1 for a free axis"
        )
    if spec.columns and (len(spec.shape) != 2 or spec.shape[1] != len(spec.columns)):
        raise InvalidInput(
            f"the {what} '{spec.name}' names {len(spec.columns)} columns, its shape does not",
            field=spec.name,
            hint=f"a packed tensor of these columns has the shape [-1, {len(spec.columns)}]",
        )


def _check_coverage(signature: ModelSignature) -> None:
    """Every feature has exactly one place among the inputs, and every place its feature."""
    places = [(column, spec) for spec in signature.inputs for column in (spec.columns or (spec.name,))]
    _check_names("input column", (name for name, _ in places))
    features = {feature.name: feature for feature in signature.features}
    for name, spec in places:
        feature = features.pop(name, None)
        if feature is None:
            raise InvalidInput(
                f"the input '{spec.name}' takes '{name}', which is no feature", field=name, hint="declare it"
            )
        _check_place(feature, spec)
    for name in features:
        raise InvalidInput(
            f"the feature '{name}' is in no input", field=name, hint="add it to the columns of an input, or drop it"
        )


def _check_place(feature: Feature, spec: TensorSpec) -> None:
    name = feature.name
    if feature.datatype != spec.datatype:
        raise InvalidInput(
            f"the feature '{name}' is {feature.datatype}, its input '{spec.name}' is {spec.datatype}",
            field=name,
            hint="give both the same datatype",
        )
    if feature.nullable and feature.datatype not in _NULLABLE_DATATYPES:
        raise InvalidInput(
            f"the feature '{name}' is nullable, which {feature.datatype} cannot express",
            field=name,
            hint=f"only {', '.join(sorted(_NULLABLE_DATATYPES))} have a missing value",
        )
    if spec.columns:
        fits = not feature.shape
    elif feature.shape:
        fits = spec.shape in (feature.shape, (-1, *feature.shape))
    else:  # converters write a scalar with or without an axis of length one
        fits = spec.shape in ((), (1,), (-1,), (-1, 1))
    if not fits:
        raise InvalidInput(
            f"the shape of the feature '{name}' does not fit its input '{spec.name}'",
            field=name,
            hint="a column is a scalar; a tensor of its own has the shape of one row's value, behind the batch axis",
        )
