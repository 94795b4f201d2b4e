"""The signature of an ONNX file: from its tensors alone, and with what a sample and a ZipMap say besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from keelway.contract.sample import column_kind
from keelway.contract.signature import Feature, ModelSignature
from keelway.contract.tensors import signature_from_tensors
from keelway.errors import InvalidInput
from keelway.ports import RuntimeOptions
from keelway.runtimes.onnx import OnnxRuntime
from keelway.types import TensorSpec

if TYPE_CHECKING:
    import pandas as pd

_FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})
_KINDS: Final = {"BYTES": "text", "BOOL": "boolean"}
_WITHOUT: Final = "push it without --sample; callers then send its tensors"


def describe(path: Path) -> ModelSignature:
    """The signature of the ONNX file ``path`` by its tensors, without the package ``onnx``.

    Raises ``CorruptArtifact`` for a file that cannot be loaded, or that answers maps (a push rewrites them).
    """
    runtime = OnnxRuntime(path, RuntimeOptions())
    try:
        return signature_from_tensors(runtime.inputs, runtime.outputs)
    finally:
        runtime.close()


def with_labels(signature: ModelSignature, labels: tuple[str | int, ...], probabilities: str) -> ModelSignature:
    """``signature`` of a classifier whose ZipMap named ``labels`` for the output ``probabilities``, if it had one."""
    if not labels:
        return signature
    others = [spec.name for spec in signature.outputs if spec.name != probabilities]
    label = signature.label_output or (others[0] if len(others) == 1 else "")
    return msgspec.structs.replace(
        signature, task="classification", labels=labels, label_output=label, probability_output=probabilities
    )


def with_sample(signature: ModelSignature, sample: pd.DataFrame) -> ModelSignature:
    """``signature`` with the sample's columns as features, in its order, where they fit the tensors one way only.

    Tensors of shape [rows, n] become packed under their own names: all columns for a single tensor of numbers, and the
    columns of each kind for one tensor of numbers, one of text and one of booleans. Tensors of one value a row stay,
    and must be named as the columns. Raises ``InvalidInput`` naming what does not fit, with both numbers.
    """
    names = tuple(str(name) for name in sample.columns)
    kinds = {name: column_kind(sample[name]) for name in names}
    nullable = {name: bool(sample[name].isna().any()) for name in names}
    if all(not feature.shape for feature in signature.features) and len(signature.inputs) > 1:
        inputs, places = signature.inputs, _by_name(signature.inputs, names)
    else:
        inputs, places = _packed(signature.inputs, names, kinds)
    for name, spec in places.items():
        _check_kind(name, kinds[name], spec)
    features = tuple(
        Feature(name, places[name].datatype, nullable[name] and places[name].datatype in (*_FLOATS, "BYTES"))
        for name in (names if inputs is not signature.inputs else [spec.name for spec in inputs])
    )
    return msgspec.structs.replace(signature, features=features, inputs=inputs)


def _by_name(inputs: Sequence[TensorSpec], names: tuple[str, ...]) -> dict[str, TensorSpec]:
    places = {spec.name: spec for spec in inputs}
    missing = [name for name in places if name not in names]
    extra = [name for name in names if name not in places]
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which is no input of the model"
        raise InvalidInput(
            f"the sample has {len(names)} columns, the model {len(places)} inputs; the sample {what}",
            field=(missing or extra)[0],
            hint="name the columns as the inputs; --target names the column that is predicted",
        )
    return places


def _packed(
    inputs: tuple[TensorSpec, ...], names: tuple[str, ...], kinds: Mapping[str, str]
) -> tuple[tuple[TensorSpec, ...], dict[str, TensorSpec]]:
    if any(len(spec.shape) != 2 for spec in inputs):
        odd = next(spec for spec in inputs if len(spec.shape) != 2)
        raise InvalidInput(
            f"the input '{odd.name}' has the shape {list(odd.shape)}, into which the columns of a sample do not fit",
            field="sample",
            hint=_WITHOUT,
        )
    wanted = [_KINDS.get(spec.datatype, "number") for spec in inputs]
    if len(set(wanted)) != len(wanted):
        raise InvalidInput("the model has several inputs of one kind", field="sample", hint=_WITHOUT)
    # Booleans count as numbers where no tensor of booleans takes them; a single tensor takes every column.
    chosen: dict[str, list[str]] = {kind: [] for kind in wanted}
    for name in names:
        kind = kinds[name] if kinds[name] in chosen else "number"
        chosen[kind if kind in chosen else wanted[0]].append(name)
    packed: list[TensorSpec] = []
    places: dict[str, TensorSpec] = {}
    for spec, kind in zip(inputs, wanted, strict=True):
        columns = tuple(chosen[kind])
        if not columns or spec.shape[1] not in (-1, len(columns)):
            width = "any number of" if spec.shape[1] == -1 else str(spec.shape[1])
            raise InvalidInput(
                f"the input '{spec.name}' takes {width} columns, the sample has {len(columns)} for it",
                field="sample",
                hint="give exactly the model's features in its order; --target names the column that is predicted",
            )
        packed.append(TensorSpec(spec.name, spec.datatype, (spec.shape[0], len(columns)), columns))
        places |= dict.fromkeys(columns, spec)
    return tuple(packed), places


def _check_kind(name: str, kind: str, spec: TensorSpec) -> None:
    expected = _KINDS.get(spec.datatype, "number")
    if kind == expected or (expected == "number" and kind == "boolean"):
        return
    raise InvalidInput(
        f"column '{name}' holds {'text' if kind == 'text' else f'{kind}s'}, the input '{spec.name}' is {spec.datatype}",
        field=name,
        hint="give the columns as the model takes them, after any encoding that is done outside it",
    )
