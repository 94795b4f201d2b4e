"""Loading one version: open it, warm it up, and decide by measurement where it runs.

A model whose one-row run is short is run on the event loop, since handing it to a thread would cost more than the run;
a slower one gets worker threads of its own, one per slot, so that it cannot starve another model.
"""

from __future__ import annotations

import inspect
import logging
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from keelway.batching.turn import Run, TurnBatcher
from keelway.clock import Clock
from keelway.config import LimitSettings, RuntimeSettings
from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.binding import Binding
from keelway.contract.signature import ModelSignature
from keelway.errors import KeelwayError
from keelway.guard.validation import Validator
from keelway.hosting.sources import ModelSource, Opened, Release
from keelway.ports import Runtime, RuntimeOptions
from keelway.routing.snapshot import ServedVersion
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

log = logging.getLogger("keelway.hosting")

_WARM_UP_RUNS = 15
_WARM_UP_SECONDS = 0.25
_BATCH_SECONDS = 0.002


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A version that can answer. ``run_seconds`` is the median of the warm-up runs of one row, ``None`` if the model
    could not be warmed up."""

    release: Release
    served: ServedVersion
    opened: Opened
    run_seconds: float | None

    def close(self) -> None:
        """Wait for the runs under way in worker threads, then release everything."""
        if self.served.executor is not None:
            self.served.executor.shutdown(wait=True)
        self.opened.close()


def runtime_options(settings: RuntimeSettings) -> RuntimeOptions:
    """The operator's side of a runtime, with threads counted where the setting says 0."""
    return RuntimeOptions(
        settings.threads or usable_cpus(),
        frozenset(settings.allowed_python),
        frozenset(settings.trusted_types),
        settings.providers,
        settings.share_weights,
    )


def usable_cpus() -> int:
    """CPUs this process may use: its affinity, and the quota of its control group where there is one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError):
        return cpus


def load_version(
    source: ModelSource, release: Release, runtime: RuntimeSettings, limits: LimitSettings, clock: Clock
) -> Loaded:
    """Blocking; called from a worker thread. Raises ``KeelwayError`` and leaves nothing behind when it fails."""
    opened = source.open(release, runtime_options(runtime))
    try:
        signature = opened.manifest.signature
        examples: Mapping[str, Array] = getattr(opened.runtime, "examples", {})
        inputs = example_inputs(signature, release.baseline) | dict(examples)
        seconds, waits = warm_up(opened.runtime, inputs, [spec.name for spec in signature.outputs], clock)
        # A picture may be a thousand times as large as the example.
        known = None if examples else seconds
        executor = None if waits else _executor(known, runtime, release.name, opened.runtime)
        names = [spec.name for spec in signature.outputs]
        batcher = None if executor or waits else _batcher(opened, inputs, names, seconds, runtime.micro_batch_rows)
        served = ServedVersion(
            release.name,
            release.version,
            release.model_digest or opened.manifest.digest,
            release.policy.revision,
            signature,
            Binding(signature, limits.max_rows),
            Validator(signature, release.policy, release.baseline),
            opened.runtime,
            executor,
            {"runtime": opened.manifest.runtime, "example": example_row(signature, inputs)},
            batcher,
        )
        return Loaded(release, served, opened, seconds)
    except BaseException:
        opened.close()
        raise


def _batcher(
    opened: Opened, inputs: Mapping[str, Array], outputs: Sequence[str], seconds: float | None, most: int
) -> TurnBatcher | None:
    """What lets requests share a run, if the model gives every row of a batch the answer that it gives it alone. As
    many rows as take ``_BATCH_SECONDS`` one by one, and ``most``: who comes first should not wait long for the rest."""
    if seconds is None or opened.manifest.runtime != "onnx" or not opened.manifest.signature.batched:
        return None
    rows = min(most, int(_BATCH_SECONDS / max(seconds, 1e-9)))
    if rows < 2:
        return None

    def run(given: Mapping[str, Array], names: Sequence[str]) -> Sequence[Array]:
        return opened.runtime.run(given, names)  # type: ignore[return-value]

    return TurnBatcher(run, rows) if _rows_stand_alone(run, inputs, outputs, rows) else None


def _rows_stand_alone(run: Run, inputs: Mapping[str, Array], outputs: Sequence[str], rows: int) -> bool:
    try:
        alone = run(inputs, outputs)
        together = run({name: np.repeat(array, rows, axis=0) for name, array in inputs.items()}, outputs)
        return all(_repeats(one, many, rows) for one, many in zip(alone, together, strict=True))
    except Exception as error:  # noqa: BLE001
        # A model may refuse more rows than one; then it gets one.
        log.warning("rows of several requests are not joined: a run of %d failed with %s", rows, type(error).__name__)
        return False


def _repeats(one: Array, many: Array, rows: int) -> bool:
    if many.shape != (rows, *one.shape[1:]):
        return False
    if one.dtype.kind in "OUS":
        return bool((many == one).all())
    return bool(np.allclose(many, one, rtol=1e-5, atol=1e-6, equal_nan=True))


def warm_up(
    runtime: Runtime, inputs: Mapping[str, Array], outputs: list[str], clock: Clock
) -> tuple[float | None, bool]:
    """Median seconds of a one-row run (``None`` if the model refuses made-up inputs), and whether it answers by
    awaitable."""
    times: list[float] = []
    try:
        began = clock.monotonic()
        while len(times) < _WARM_UP_RUNS and (len(times) < 2 or clock.monotonic() - began < _WARM_UP_SECONDS):
            start = clock.monotonic()
            answer = runtime.run(inputs, outputs)
            if inspect.isawaitable(answer):
                if inspect.iscoroutine(answer):
                    answer.close()
                return None, True
            times.append(clock.monotonic() - start)
    except KeelwayError:
        raise
    except Exception as error:  # noqa: BLE001
        # A model may refuse made-up values (an index into an embedding, say); it can still serve real ones.
        log.warning("a warm-up run failed with %s; the model runs in worker threads", type(error).__name__)
        return None, False
    return median(times[1:]), False


def example_inputs(signature: ModelSignature, baseline: Baseline | None) -> dict[str, Array]:
    """One plausible row: what the sample showed in the middle, or zeros and empty texts. Open axes have length 1."""
    observed = {feature.name: feature for feature in baseline.features} if baseline else {}
    return {spec.name: _example(spec, observed) for spec in signature.inputs}


def example_row(signature: ModelSignature, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """The row of ``inputs`` as JSON values by feature name, for the example of the documentation page."""
    row: dict[str, Any] = {}
    for spec in signature.inputs:
        array = inputs[spec.name]
        if signature.batched:
            array = array.reshape(array.shape[1:])  # not [0], which makes a bare str of one text
        if spec.columns:
            row |= zip(spec.columns, map(_readable, array.tolist()), strict=True)
        else:
            feature = next(feature for feature in signature.features if feature.name == spec.name)
            row[spec.name] = array.tolist() if feature.shape else _readable(array.reshape(-1).tolist()[0])
    return row


def _readable(value: Any) -> Any:
    """Bytes as rows carry them, and six digits of a number: what float32 made of 5.8 is no example to read."""
    if isinstance(value, bytes):
        return {"b64": b64encode(value).decode()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _example(spec: TensorSpec, observed: Mapping[str, ObservedFeature]) -> Array:
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    empty: Any = "" if spec.datatype == "BYTES" else 0
    array = np.full(shape, empty, dtype=NUMPY_DTYPES[spec.datatype])
    for position, column in enumerate(spec.columns):
        feature = observed.get(column)
        if feature is not None and spec.datatype == "BYTES" and feature.categories:
            array[0, position] = max(feature.categories, key=feature.categories.__getitem__)
        elif feature is not None and feature.edges:
            array[0, position] = feature.edges[len(feature.edges) // 2]
    return array


def _executor(seconds: float | None, settings: RuntimeSettings, name: str, runtime: Runtime) -> Executor | None:
    if seconds is not None and seconds * 1000 < settings.inline_below_ms:
        return None
    slots = settings.slots if runtime.thread_safe else 1
    return ThreadPoolExecutor(slots, thread_name_prefix=f"keelway-{name}")
