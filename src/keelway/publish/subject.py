"""What the child publishes: an opened model, whatever it is of, as the steps of ``asking.py`` need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keelway.contract.signature import Feature, Task
from keelway.publish.convert.graph import Number
from keelway.publish.convert.translate import Translation
from keelway.publish.original import Original
from keelway.publish.perturb import Nodes
from keelway.publish.rows import Rows
from keelway.runtimes.skops import Given
from keelway.types import TensorSpec

Door = Literal["FP32", "FP64"]

#: How an attempt at a conversion is called, the datatype of numbers at the door, and that of the arithmetic.
Attempts = tuple[tuple[str, Door, Number], ...]

#: From the fastest to the slowest. float64 in between is for steps whose rounding to float32 would move a decision;
#: float64 at the door for models that compare with values of the sample itself, as HistGradientBoosting does.
EVERY: Attempts = (
    ("float32", "FP32", "FP32"),
    ("float64 arithmetic", "FP32", "FP64"),
    ("float64 inputs", "FP64", "FP64"),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """``convert`` makes an ONNX model for packed inputs and features in a datatype of numbers; it may raise
    ``NotTranslated`` and whatever a converter raises. ``nodes`` finds up to so many nodes of trees, for ``perturb.py``.
    ``model`` is what is kept if no conversion holds: the estimator, or a ``BoosterModel``."""

    model: Any
    original: Original
    description: str
    framework: str
    task: Task
    labels: tuple[str | int | float | bool, ...]
    given: Given
    convert: Callable[[Sequence[TensorSpec], Sequence[Feature], Number], Translation]
    nodes: Callable[[Rows, int, np.random.Generator], Nodes]
    attempts: Attempts = EVERY
    saved_with: str = ""
