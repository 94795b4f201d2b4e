"""Loading one version: open it, warm it up, and decide by measurement where it runs and how its requests meet there.

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
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from keelway.batching.batcher import SlotBatcher
from keelway.batching.curve import Choice, Curve
from keelway.batching.together import Run
from keelway.batching.turn import TurnBatcher
from keelway.clock import Clock
from keelway.config import BatchingSettings, RuntimeSettings, Settings
from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.binding import Binding
from keelway.contract.signature import ModelSignature
from keelway.errors import KeelwayError
from keelway.guard.validation import Validator
from keelway.hosting.measuring import Measurable, choose_in_slots, choose_in_turn
from keelway.hosting.sources import ModelSource, Opened, Release
from keelway.observe.metrics import RunMeters, ServingMetrics
from keelway.ports import Runtime, RuntimeOptions
from keelway.routing.snapshot import Batches, ServedVersion
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

log = logging.getLogger("keelway.hosting")

_WARM_UP_RUNS = 15
_WARM_UP_SECONDS = 0.25


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
    source: ModelSource, release: Release, settings: Settings, clock: Clock, metrics: ServingMetrics
) -> Loaded:
    """Blocking; called from a worker thread. Raises ``KeelwayError`` and leaves nothing behind when it fails."""
    opened = source.open(release, runtime_options(settings.runtime))
    try:
        signature = opened.manifest.signature
        examples: Mapping[str, Array] = getattr(opened.runtime, "examples", {})
        inputs = example_inputs(signature, release.baseline) | dict(examples)
        seconds, waits = warm_up(opened.runtime, inputs, [spec.name for spec in signature.outputs], clock)
        choice = _choose(opened, inputs, seconds, waits, settings, clock, like_others=not examples)
        meters = RunMeters(metrics, release.name, release.version)
        executor = None
        if choice.slots:
            executor = ThreadPoolExecutor(choice.slots, thread_name_prefix=f"keelway-{release.name}")
        served = ServedVersion(
            release.name,
            release.version,
            release.model_digest or opened.manifest.digest,
            release.policy.revision,
            signature,
            Binding(signature, settings.limits.max_rows),
            _validator(signature, release, opened, clock),
            opened.runtime,
            executor,
            {
                "runtime": opened.manifest.runtime,
                "example": example_row(signature, inputs),
                "constraints": release.policy.constraints,
                "batching": msgspec.to_builtins(choice),
            },
            _batcher(_run_of(opened.runtime), choice, executor, settings.batching, clock, meters),
        )
        return Loaded(release, served, opened, seconds)
    except BaseException:
        opened.close()
        raise


def under_policy(loaded: Loaded, release: Release, clock: Clock) -> Loaded:
    """``loaded`` as ``release``, which differs in its policy alone: the same runtime, queue and runs under way. Whoever
    has begun under the other policy ends under it. Raises ``KeelwayError`` if it cannot be enforced here."""
    served = replace(
        loaded.served,
        policy_revision=release.policy.revision,
        validator=_validator(loaded.served.signature, release, loaded.opened, clock),
        metadata={**loaded.served.metadata, "constraints": release.policy.constraints},
    )
    return replace(loaded, release=release, served=served)


def _validator(signature: ModelSignature, release: Release, opened: Opened, clock: Clock) -> Validator:
    policy, isolation = release.policy, opened.isolation
    return Validator(signature, policy, release.baseline, release.detector, clock.monotonic, isolation)


def _choose(
    opened: Opened,
    inputs: Mapping[str, Array],
    seconds: float | None,
    waits: bool,
    settings: Settings,
    clock: Clock,
    *,
    like_others: bool,
) -> Choice:
    """Where the model runs, and how its requests meet there. ``like_others`` says that other rows take about as long as
    ``inputs``: a picture may be a thousand times as large."""
    if waits:
        return Choice("none", 1, "it answers by awaitable, and is asked at once")
    runtime, signature, batching = settings.runtime, opened.manifest.signature, settings.batching
    inline = like_others and seconds is not None and seconds * 1000 < runtime.inline_below_ms
    slots = 0 if inline else runtime.slots if opened.runtime.thread_safe else 1
    if seconds is None:
        return Choice("none", 1, "it refused the made-up row of the warm-up, so that nothing could be measured", slots)
    if not like_others:
        return Choice("none", 1, "a row may take any time, a picture say, so that one says nothing of another", slots)
    if not signature.batched:
        return Choice("none", 1, "its tensors have no batch axis", slots, Curve(((1, seconds),)))
    model = Measurable(_run_of(opened.runtime), inputs, [spec.name for spec in signature.outputs], seconds)
    if not inline:
        return choose_in_slots(model, batching.max_batch_size, batching.warm_up_seconds, slots, clock)
    if opened.manifest.runtime != "onnx":
        return Choice("none", 1, "it is no ONNX model and runs on the event loop", 0, Curve(((1, seconds),)))
    return choose_in_turn(model, runtime.micro_batch_rows, batching.warm_up_seconds, clock)


def _run_of(runtime: Runtime) -> Run:
    def run(given: Mapping[str, Array], names: Sequence[str]) -> Sequence[Array]:
        return runtime.run(given, names)  # type: ignore[return-value]

    return run


def _batcher(
    run: Run,
    choice: Choice,
    executor: Executor | None,
    settings: BatchingSettings,
    clock: Clock,
    meters: RunMeters,
) -> Batches | None:
    if executor is not None:
        return SlotBatcher(
            run,
            executor,
            clock,
            meters,
            slots=choice.slots,
            max_rows=choice.max_batch_size if choice.policy == "slots" else 0,
            curve=choice.curve,
            max_queue_rows=settings.max_queue_rows,
            max_delay=settings.max_queue_delay,
        )
    return TurnBatcher(run, choice.max_batch_size, meters) if choice.policy == "turn" else None


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
