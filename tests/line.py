"""A request line with one model behind it, and what its requests have left behind: shared by the data plane's tests."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from keelway.batching.batcher import SlotBatcher
from keelway.batching.turn import TurnBatcher
from keelway.codecs.rows import RowCodec
from keelway.config import load_settings
from keelway.contract.anomaly import fit
from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.binding import Binding
from keelway.contract.constraints import Constraint, Policy
from keelway.contract.signature import Feature, ModelSignature
from keelway.dataplane import Answer, DataPlane, InferenceCall
from keelway.guard.admission import Admission
from keelway.guard.gate import Gate
from keelway.guard.validation import Validator
from keelway.hosting.caching import answer_cache
from keelway.observe.metrics import METRICS, RunMeters, ServingMetrics
from keelway.observe.records import RecordRing
from keelway.routing.snapshot import ServedModel, ServedVersion, ServingSnapshot
from keelway.testing import FakeClock, FakeRuntime
from keelway.types import Array, InferenceRecord, TensorSpec

SIGNATURE = ModelSignature(
    (Feature("age", "FP32"), Feature("income", "FP32", nullable=True)),
    (TensorSpec("input", "FP32", (-1, 2), ("age", "income")),),
    (TensorSpec("score", "FP32", (-1,)), TensorSpec("pair", "FP32", (-1, 2))),
)
POLICY = Policy(7, (Constraint("age", 0, 130),))
SEEN = Baseline(10, (ObservedFeature("age", 10, minimum=18, maximum=99),))

_RANDOM = np.random.default_rng(0)
_AGES = _RANDOM.normal(50, 10, 2_000)
#: Income follows age closely: 50 and 50 go together, 60 and 40 do not.
DETECTOR = fit(np.stack([_AGES, _AGES + _RANDOM.normal(0, 1, 2_000)], axis=1), ("age", "income"))

SECRET = "sentinel-4711"
GOOD = b'{"instances": [{"age": 40, "income": 2}]}'
VERSION = ("churn", "1.2.0")
NOBODY = ("", "")

Function = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def scores(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    return {"score": inputs["input"].sum(axis=1), "pair": inputs["input"]}


def boom(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    raise ValueError(f"cannot score {SECRET}")


class Line:
    """A data plane with one model, and what its requests have left behind. ``cache`` are settings of a cache, which it
    has if they are given; ``batched``: requests of one turn of the loop share a run."""

    def __init__(
        self,
        function: Function = scores,
        *,
        delay: float = 0,
        executor: Executor | None = None,
        ring: int = 1000,
        permits: int = 4,
        cache: Mapping[str, Any] | None = None,
        batched: bool = False,
    ) -> None:
        self.clock = FakeClock(start=1_000.0)
        self.metrics = ServingMetrics()
        self.ring = RecordRing(ring)
        self.runtime = FakeRuntime(SIGNATURE.inputs, SIGNATURE.outputs, function, delay=delay)
        validator = Validator(SIGNATURE, POLICY, SEEN)
        meters = RunMeters(self.metrics, *VERSION)
        batcher: SlotBatcher | TurnBatcher | None = TurnBatcher(self.runtime.run, 8, meters) if batched else None  # type: ignore[arg-type]
        if executor is not None:
            batcher = SlotBatcher(self.runtime.run, executor, self.clock, meters)  # type: ignore[arg-type]
        self.version = ServedVersion(
            *VERSION,
            "sha256:d",
            7,
            SIGNATURE,
            Binding(SIGNATURE, 10),
            validator,
            self.runtime,
            executor,
            batcher=batcher,
        )
        settings = load_settings(None, {}, {"cache": {"enabled": cache is not None, "jitter": 0.0, **(cache or {})}})
        self.cache = answer_cache(settings, self.metrics, self.clock)
        self.plane = DataPlane(Gate(Admission(permits)), self.metrics, self.ring, self.clock, self.cache)
        self.plane.snapshot = ServingSnapshot(
            {"churn": ServedModel("churn", {"1.2.0": self.version}, "1.2.0")}, frozenset({"churn", "asleep"})
        )

    def under(self, policy: Policy) -> Line:
        """The same line, its model held to ``policy``, with a detector of anomalies."""
        self.validate_by(Validator(SIGNATURE, policy, None, DETECTOR, self.clock.monotonic))
        return self

    def validate_by(self, validator: Validator) -> None:
        """What the control plane does when a policy has changed."""
        version = dataclasses.replace(self.version, validator=validator)
        self.plane.snapshot = ServingSnapshot({"churn": ServedModel("churn", {"1.2.0": version}, "1.2.0")})

    def call(self, body: bytes = GOOD, **rest: Any) -> InferenceCall:
        given = {"model": "churn", "selector": None, "codec": RowCodec(), "transport": "rest_v1", "request_id": "r-1"}
        return InferenceCall(**{**given, "body": body, "deadline": 60.0, **rest})

    def now(self, body: bytes = GOOD, **rest: Any) -> Answer:
        """The answer of a call that waits for nothing."""
        answer = self.plane.infer(self.call(body, **rest))
        assert isinstance(answer, Answer)
        return answer

    async def later(self, body: bytes = GOOD, **rest: Any) -> Answer:
        """The answer of a call that must wait."""
        answer = self.plane.infer(self.call(body, **rest))
        assert not isinstance(answer, Answer)
        return await answer.future()

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """Label values, in the order of the declaration, -> value of every sample called ``name``."""
        labels = next(metric.labels for metric in METRICS if name.startswith(metric.name))
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for family in text_string_to_metric_families(self.metrics.render().decode())
            for sample in family.samples
            if sample.name == name
        }

    def outcomes(self) -> dict[tuple[str, ...], float]:
        return self.samples("ml_requests_total")

    def records(self) -> Sequence[InferenceRecord]:
        return self.ring.take()

    async def assert_idle(self) -> None:
        await asyncio.wait_for(self.version.usage.idle(), 5)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


@contextmanager
def one_worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def assert_one_outcome(line: Line, code: str, of: tuple[str, str] = VERSION) -> InferenceRecord:
    """Exactly one request was counted, timed and recorded, with ``code``."""
    assert line.outcomes() == {(*of, "rest_v1", code): 1}
    assert line.samples("ml_request_duration_seconds_count") == {(*of, "rest_v1"): 1}
    (record,) = line.records()
    assert (record.code, record.model, record.version) == (code, *of)
    return record
