"""The judgement of a converted network: its output tensors beside the original's, example by example. Pure.

A number may differ by the tolerance relative to the larger of its own size and the spread (standard deviation) of that
output on the examples of the sample, since a difference means nothing without a scale. Whole numbers and booleans have
to be equal. ``proof.py`` does the same for models of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keelway.errors import ModelFailed
from keelway.publish.proof import Comparison
from keelway.types import Array

#: What a network answered to a batch: arrays [b, ...] by output name.
Outputs = Mapping[str, Array]


def compare_tensors(
    original: Sequence[Outputs], candidate: Sequence[Outputs], scales: Mapping[str, float], tolerance: float
) -> Comparison:
    """Both answered the same batches in the same order; ``scales`` are the original's (``scales_of``).

    ``label_differences`` counts examples with another whole number. Raises ``ModelFailed`` if outputs are missing or of
    another shape.
    """
    every, wrong = differences(original, candidate, scales)
    return Comparison(
        rows=len(every),
        label_differences=int(wrong.sum()),
        worst_difference=float(every.max(initial=0.0)),
        worst_row=int(np.argmax(np.where(wrong, np.inf, every))),
        beyond=float((every > tolerance).mean()),
        refused=0,
    )


def differences(
    original: Sequence[Outputs], candidate: Sequence[Outputs], scales: Mapping[str, float]
) -> tuple[Array, Array]:
    """Of each example the largest difference of a number, and whether it has another whole number or text."""
    worst, differ = [], []
    for given, answered in zip(original, candidate, strict=True):
        rows = _examples(given)
        batch_worst, batch_differ = np.zeros(rows), np.zeros(rows, bool)
        for name, expected in given.items():
            found = answered.get(name)
            if found is None or found.shape != expected.shape:
                raise ModelFailed(f"the output '{name}' has another shape than the original's", field=name)
            if not expected.size:
                continue
            if expected.dtype.kind == "f":
                difference = _differences(expected, found, scales[name])
                batch_worst = np.maximum(batch_worst, difference.reshape(rows, -1).max(axis=1))
            else:
                batch_differ |= (expected != found).reshape(rows, -1).any(axis=1)
        worst.append(batch_worst)
        differ.append(batch_differ)
    return np.concatenate(worst), np.concatenate(differ)


def _examples(answer: Outputs) -> int:
    """How many examples ``answer`` is for; 1 where its outputs do not agree on that, as without a batch axis."""
    lengths = {len(array) if array.ndim else 1 for array in answer.values()}
    return lengths.pop() if len(lengths) == 1 else 1


def scales_of(answers: Sequence[Outputs]) -> dict[str, float]:
    """The spread of each output of floating-point numbers over ``answers``; 1 where there is none."""
    found = {}
    for name, first in answers[0].items():
        if first.dtype.kind != "f":
            continue
        values = np.concatenate([np.ravel(answer[name]) for answer in answers]).astype(np.float64)
        values = values[np.isfinite(values)]
        spread = float(values.std()) if len(values) else 0.0
        found[name] = spread if spread > 0 else max(float(np.abs(values).max(initial=0.0)), 1.0)
    return found


def _differences(expected: Array, found: Array, scale: float) -> Array:
    """Elementwise, relative; infinite where one side is not a number and the other is."""
    left, right = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(left - right) / np.maximum(np.abs(left), scale)
    difference = np.where((left == right) | (np.isnan(left) & np.isnan(right)), 0.0, difference)
    return np.where(np.isnan(difference), np.inf, difference)
