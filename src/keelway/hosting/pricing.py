"""The process that measures what shared weights cost: ``python -m keelway.hosting.pricing``, a ``Question`` on standard
input, a ``Price`` on standard output. Started by ``weights.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from keelway.clock import Clock, SystemClock
from keelway.contract.tensors import signature_from_tensors
from keelway.hosting.loading import example_inputs
from keelway.hosting.weights import Price, Question
from keelway.ports import RuntimeOptions
from keelway.runtimes.onnx import OnnxRuntime
from keelway.types import Array

_RUNS = 15
_SECONDS = 1.0


def price(question: Question, clock: Clock) -> Price:
    """Runs of both models in turns, so that what else happens on the machine happens to both."""
    options = RuntimeOptions(question.threads, providers=question.providers)
    plain = OnnxRuntime(Path(question.plain), options)
    shared = OnnxRuntime(Path(question.shared), options._replace(share_weights=True))
    signature = question.signature or signature_from_tensors(plain.inputs, plain.outputs)
    inputs = example_inputs(signature, question.baseline)
    outputs = [spec.name for spec in signature.outputs]
    try:
        same = all(map(_equal, plain.run(inputs, outputs), shared.run(inputs, outputs)))
        times = [(_timed(plain, inputs, outputs, clock), _timed(shared, inputs, outputs, clock))]
        began = clock.monotonic()
        while len(times) < _RUNS and clock.monotonic() - began < _SECONDS:
            times.append((_timed(plain, inputs, outputs, clock), _timed(shared, inputs, outputs, clock)))
    except Exception:  # noqa: BLE001 - a model may refuse made-up values; it can still serve real ones
        return Price(None, None, None)
    return Price(median(one for one, _ in times), median(other for _, other in times), same)


def _timed(runtime: OnnxRuntime, inputs: Mapping[str, Array], outputs: list[str], clock: Clock) -> float:
    began = clock.monotonic()
    runtime.run(inputs, outputs)
    return clock.monotonic() - began


def _equal(one: Array, other: Array) -> bool:
    if one.dtype.kind in "OUS":
        return bool((one == other).all())
    return bool(np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True))


def main() -> None:
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    sys.stdout.buffer.write(msgspec.json.encode(price(question, SystemClock())))


if __name__ == "__main__":
    main()
