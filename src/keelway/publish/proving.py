"""Running a candidate on the rows of a proof, by the same runtime that will serve it, and comparing it row by row.

The child calls it to know when to stop converting; the parent calls it again, on the files the child left, and only
the parent's verdict counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from keelway.clock import SystemClock
from keelway.errors import ModelFailed
from keelway.ports import Runtime, RuntimeOptions
from keelway.publish.answers import Answers, joined
from keelway.publish.examples import SAMPLE_KIND, Batch
from keelway.publish.proof import Comparison, compare
from keelway.publish.rows import Rows, tensors
from keelway.publish.tensor_proof import Outputs, compare_tensors, scales_of
from keelway.runtimes.boosters import BoostersRuntime
from keelway.runtimes.onnx import OnnxRuntime
from keelway.runtimes.skops import SkopsRuntime
from keelway.types import Array, TensorSpec

#: Rows of one run. Some rows are also asked one by one, since another batch may take another path through a kernel.
_BATCH: Final = 512
_SINGLES: Final = 200

#: The outputs that hold what is compared as values, whichever the model has.
_VALUES: Final = ("probabilities", "scores", "prediction")


def prove(
    path: Path, inputs: Sequence[TensorSpec], rows: Rows, original: Answers, scale: Array | None, tolerance: float
) -> Comparison:
    """Run the ONNX file ``path`` on all of ``rows`` and compare. Raises ``CorruptArtifact`` if it cannot be loaded."""
    runtime = OnnxRuntime(path, RuntimeOptions())
    try:
        packed = tensors(rows, inputs)
        # From the end, where the rows beside decision steps are.
        singles = np.arange(max(0, len(rows) - _SINGLES), len(rows))
        starts = [*range(0, len(rows), _BATCH)]
        parts = [
            ask(runtime, {name: array[start : start + _BATCH] for name, array in packed.items()}) for start in starts
        ]
        alone = [ask(runtime, {name: array[at : at + 1] for name, array in packed.items()}) for at in singles]
    finally:
        runtime.close()
    together = compare(original, joined(parts), scale, tolerance)
    if not together.holds or not alone:
        return together
    one_by_one = compare(original.take(singles), joined(alone), scale, tolerance)
    return together if one_by_one.holds else one_by_one.at(singles)


def ask(runtime: OnnxRuntime | SkopsRuntime | BoostersRuntime, inputs: dict[str, Array]) -> Answers:
    """One run of ``runtime``, as answers."""
    names = [spec.name for spec in runtime.outputs]
    answered = dict(zip(names, runtime.run(inputs, names), strict=True))
    rows = len(next(iter(inputs.values())))
    values = next((answered[name] for name in _VALUES if name in answered), np.zeros((rows, 0)))
    values = np.asarray(values, np.float64)
    return Answers(
        answered.get("label"), values.reshape(rows, -1) if values.size else np.zeros((rows, 0)), np.ones(rows, bool)
    )


def prove_network(runtime: Runtime, made: Sequence[Batch], answers: Sequence[Outputs], tolerance: float) -> Comparison:
    """Give every batch of the proof to ``runtime`` and compare. Raises ``ModelFailed`` if it fails on one of them."""
    names = [spec.name for spec in runtime.outputs]
    found: list[Outputs] = []
    for batch in made:
        try:
            found.append(dict(zip(names, runtime.run(batch.arrays, names), strict=True)))  # type: ignore[arg-type]
        except Exception as error:
            raise ModelFailed(
                f"the converted model fails on examples that the original answers ({batch.kind})"
            ) from error
    scales = scales_of([answer for batch, answer in zip(made, answers, strict=True) if batch.kind == SAMPLE_KIND])
    return compare_tensors(answers, found, scales, tolerance)


def micros(call: Callable[[], object], seconds: float = 0.1, now: Callable[[], float] = SystemClock.monotonic) -> float:
    """Median microseconds of ``call``, over at least five calls and about ``seconds``."""
    call()
    times: list[float] = []
    began = now()
    while len(times) < 5 or now() - began < seconds:
        start = now()
        call()
        times.append(now() - start)
    return median(times) * 1e6
