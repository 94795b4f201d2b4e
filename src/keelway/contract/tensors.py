"""The signature of a model of which nothing is known but its tensors: what ``keelway serve model.onnx`` starts from.

Pure: it takes names, datatypes and shapes, wherever they come from. A sample says more (names of columns, which values
may be missing), and ``keelway push`` adds that (``keelway.publish.onnx_signature``).
"""

from __future__ import annotations

from collections.abc import Sequence

from keelway.contract.signature import Feature, ModelSignature, Task
from keelway.types import TensorSpec

_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_LABELS = frozenset({"BOOL", "BYTES", "INT32", "INT64"})


def signature_from_tensors(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ModelSignature:
    """Each input tensor is a feature of its own; float features may be missing, since nothing says otherwise.

    Shapes have the batch axis -1 in front where every tensor has one. A model in which some tensor has none, or a
    fixed one, takes one request a run: its features then have the whole shape of their tensors.
    """
    batched = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    features = tuple(
        Feature(spec.name, spec.datatype, spec.datatype in _FLOATS, _row(spec, batched)) for spec in inputs
    )
    task, label, probabilities = meaning_of(outputs)
    return ModelSignature(
        features, tuple(inputs), tuple(outputs), task, label_output=label, probability_output=probabilities
    )


def meaning_of(outputs: Sequence[TensorSpec]) -> tuple[Task, str, str]:
    """Task, label output and probability output, as far as names, datatypes and shapes leave no doubt.

    Exactly one output whose name holds "label" and that is one label a row, and exactly one whose name holds "prob" and
    that is several numbers a row. Anything less clear is "other": guessing would put a wrong word on a number.
    """
    labels = [spec.name for spec in outputs if "label" in spec.name.lower() and _is_label(spec)]
    shares = [spec.name for spec in outputs if "prob" in spec.name.lower() and _is_shares(spec)]
    label = labels[0] if len(labels) == 1 else ""
    probabilities = shares[0] if len(shares) == 1 else ""
    return ("classification" if label else "other"), label, probabilities


def _row(spec: TensorSpec, batched: bool) -> tuple[int, ...]:
    """The shape of one row's value. A single number per row is a scalar, with or without an axis of length one."""
    shape = spec.shape[1:] if batched else spec.shape
    return () if shape == (1,) else shape


def _is_label(spec: TensorSpec) -> bool:
    return spec.datatype in _LABELS and len(spec.shape) <= 2 and spec.shape[1:] in ((), (1,))


def _is_shares(spec: TensorSpec) -> bool:
    return spec.datatype in _FLOATS and len(spec.shape) == 2
