"""The request line: ``admit → parse → route → authorise → bind → validate → cache → batch → run → encode → observe``.

This module alone knows the order. It knows no transport and builds nothing: the app hands it the stages. A request that
waits for nothing is answered directly, without a task; one that must wait is answered by an awaitable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Sequence
from functools import partial
from typing import Any, NoReturn

from keelway.batching.awaited import awaited
from keelway.batching.policy import Outcome, Share, Unusual
from keelway.batching.waiting import Waiting, after, waiting_for
from keelway.cache.answers import OWN_RUN, STATUS, AnswerCache, Seen
from keelway.cache.entries import Entry
from keelway.clock import Clock
from keelway.errors import (
    DeadlineExceeded,
    InvalidInput,
    KeelwayError,
    ModelFailed,
    Overloaded,
    RowsRefused,
    Unavailable,
    bare,
)
from keelway.guard.anomaly import recorded_tags
from keelway.guard.gate import Gate
from keelway.guard.probing import client_of
from keelway.guard.scopes import Denied, forbidden
from keelway.guard.validation import is_atomic, without_refused
from keelway.observe.metrics import ServingMetrics
from keelway.observe.records import RecordRing
from keelway.passage import Answer, InferenceCall, Passage, Sharing
from keelway.routing.snapshot import Batches, ServedVersion, ServingSnapshot, target
from keelway.types import Array, BoundRequest, InferenceRecord, InferenceRequest, InferenceResponse, Tensor

__all__ = ["Answer", "DataPlane", "InferenceCall"]

log = logging.getLogger("keelway.dataplane")

#: One request in this many has its stages timed; the total is timed for all.
STAGE_SAMPLE = 16


class DataPlane:
    """``snapshot`` is replaced whole by the hosting side; a request that has read it keeps the one it read. ``denied``
    says why a principal may not do what it asks for; whoever sets it takes note."""

    def __init__(
        self,
        gate: Gate,
        metrics: ServingMetrics,
        records: RecordRing,
        clock: Clock,
        cache: AnswerCache | None = None,
    ) -> None:
        self.snapshot = ServingSnapshot()
        self.gate = gate
        self.clock = clock
        self.denied: Denied = forbidden
        self._metrics = metrics
        self._records = records
        self._cache = cache
        self._count = 0

    def refused(self, transport: str, error: KeelwayError) -> None:
        """Count a request that the gate has refused."""
        if isinstance(error, Overloaded):
            self._metrics.counter("ml_requests_shed_total").labels("limit").inc()
        self.turned_away(transport, error)

    def turned_away(self, transport: str, error: KeelwayError) -> None:
        """Count a request that was refused for what its head says, before it asked for a permit."""
        self._metrics.of().answered(transport, error.code, 0.0)

    def infer(self, call: InferenceCall) -> Answer | Waiting[Answer]:
        """Answer an admitted call. Raises ``KeelwayError`` only; any other exception of a stage becomes one. The caller
        has come by the ``gate`` before it read the body, and leaves by it."""
        self._count += 1
        now = self.clock.monotonic
        started = now()
        passage = Passage(call, started, [started] if self._count % STAGE_SAMPLE == 0 else None)
        try:
            passage.request = request = call.codec.parse(call.body, call.header_length)
            self._mark(passage)
            passage.version = version = self._route(call, request)
            if not call.principal.may("predict", version.name):
                raise self.denied(call.principal, call.peer, "predict", version.name)
            bound = version.binding.bind(request)
            self._mark(passage)
            limiter = self.gate.limiter
            if limiter is not None:
                passage.charged = True
                rows = (bound.rows or 1) + len(bound.row_errors)  # those that were sent, refused ones too
                charged = limiter.charge(call.principal, call.peer, version.name, rows, call.deadline - started)
                if not isinstance(charged, bytes):
                    return self._once_charged(charged, passage, version, request, bound)
                passage.rate_limit = charged
            return self._proceed(passage, version, request, bound)
        except Exception as error:  # noqa: BLE001 - whatever a stage raises becomes a KeelwayError
            self._fail(passage, error)

    def _proceed(
        self, passage: Passage, version: ServedVersion, request: InferenceRequest, bound: BoundRequest
    ) -> Answer | Waiting[Answer]:
        """What follows once it is known that the caller may have the answer."""
        passage.wanted = version.wanted_outputs(request)
        batcher = version.batcher
        if batcher is not None and batcher.declines(bound.rows or 1):
            batcher = None
        if batcher is not None and batcher.checks and self._cache is None:
            passage.usual = version.validator.usual
        if passage.usual is None:
            bound = self._validate(passage, version, request, bound)
        passage.bound = bound
        self._mark(passage)
        while True:
            try:
                if self._cache is not None:
                    cached = self._cached(self._cache, passage, version, request, bound)
                    if cached is not None:
                        return cached
                if batcher is not None:
                    return self._shared(passage, version, request, bound, batcher)
                outputs = version.runtime.run(bound.inputs, passage.wanted)
                break
            except RowsRefused as refused:
                bound = self._without(passage, request, bound, refused)
        # Most runtimes answer with a list; asking the abstract class costs several times as much.
        if type(outputs) is not list and not isinstance(outputs, Sequence):
            return self._later(passage, version, request, bound, outputs)
        return self._finish(passage, version, request, bound, outputs)

    def _validate(
        self, passage: Passage, version: ServedVersion, request: InferenceRequest, bound: BoundRequest
    ) -> BoundRequest:
        passage.bound = passage.usual = None
        return version.validator.validate(bound, atomic=is_atomic(request), client=client_of(passage.call))

    def _once_charged(
        self,
        charged: Coroutine[Any, Any, bytes],
        passage: Passage,
        version: ServedVersion,
        request: InferenceRequest,
        bound: BoundRequest,
    ) -> Waiting[Answer]:
        """The answer once the store of rate limits has let the request through."""
        passage.times = None
        version.usage.begin()
        return after(charged, partial(self._let_through, passage, version, request, bound))

    def _let_through(
        self,
        passage: Passage,
        version: ServedVersion,
        request: InferenceRequest,
        bound: BoundRequest,
        charged: asyncio.Task[bytes],
    ) -> Answer | Waiting[Answer]:
        version.usage.end()
        if charged.cancelled():
            self._observe(passage, "CANCELLED")
        try:
            passage.rate_limit = charged.result()
            return self._proceed(passage, version, request, bound)
        except Exception as error:  # noqa: BLE001 - as in infer
            self._fail(passage, error)

    def _route(self, call: InferenceCall, request: InferenceRequest) -> ServedVersion:
        name, selector = target(call.model, call.selector, request)
        try:
            return self.snapshot.resolve(name, selector)
        except Unavailable:
            if not call.principal.may("predict", name):  # that it is only not loaded would tell that it exists
                raise self.denied(call.principal, call.peer, "predict", name) from None
            raise

    def _cached(
        self,
        cache: AnswerCache,
        passage: Passage,
        version: ServedVersion,
        request: InferenceRequest,
        bound: BoundRequest,
    ) -> Answer | Waiting[Answer] | None:
        """The answer that needs no run, or may have to wait for another's. ``None``: run the model, as ever."""
        found = cache.look(version, bound.inputs, passage.wanted, passage.call.principal.tenant)
        if isinstance(found, Entry):
            passage.cache, passage.times = "hit", None
            return self._finish(passage, version, request, bound, found.result())
        passage.cache = "bypass" if found is None else "miss"
        if isinstance(found, Seen):
            passage.times = None
            return self._later(passage, version, request, bound, self._fetched(cache, found, passage, version, bound))
        passage.flight = found
        self._mark(passage)
        return None

    async def _fetched(
        self, cache: AnswerCache, seen: Seen, passage: Passage, version: ServedVersion, bound: BoundRequest
    ) -> Sequence[Array]:
        compute = partial(self._outputs, passage, version, bound)
        entry, passage.cache = await cache.fetch(seen, len(passage.wanted), compute)
        return entry.result()

    def _outputs(
        self, passage: Passage, version: ServedVersion, bound: BoundRequest
    ) -> Sequence[Array] | Awaitable[Sequence[Array]]:
        """What batch and run make of the request, not yet encoded: for the cache, which gives it to others too."""
        batcher = version.batcher
        if batcher is None or batcher.declines(bound.rows or 1):
            return version.runtime.run(bound.inputs, passage.wanted)
        passage.shares = True
        call = passage.call
        return awaited(batcher.submit, bound.inputs, bound.rows or 1, passage.wanted, call.deadline, call.priority)

    async def _outputs_later(self, passage: Passage, version: ServedVersion, bound: BoundRequest) -> Sequence[Array]:
        outputs = self._outputs(passage, version, bound)
        return outputs if isinstance(outputs, Sequence) else await outputs

    def _without(
        self, passage: Passage, request: InferenceRequest, bound: BoundRequest, refused: RowsRefused
    ) -> BoundRequest:
        """As ``without_refused``; what comes now is the answer to another question than was asked of the cache."""
        if self._cache is not None:
            self._settle(passage, refused)
            passage.cache, passage.times = passage.cache and "miss", None
        passage.bound = without_refused(request, bound, refused)
        return passage.bound

    def _settle(self, passage: Passage, error: KeelwayError | None) -> None:
        """Tell those who wait for the run of this request that it came to nothing."""
        flight, passage.flight = passage.flight, None
        if flight is not None and self._cache is not None:
            self._cache.crash(flight, error)

    def _shared(
        self,
        passage: Passage,
        version: ServedVersion,
        request: InferenceRequest,
        bound: BoundRequest,
        batcher: Batches,
    ) -> Waiting[Answer]:
        """The answer once the run is over that this request shares with others, or waits for. The batcher sees to the
        deadline. Raises ``Overloaded`` where it has no room or no time."""
        answer: Waiting[Answer] = Waiting()
        passage.shares = True
        self._submit(Sharing(passage, version, request, batcher, answer), bound)
        return answer

    def _submit(self, sharing: Sharing, bound: BoundRequest) -> None:
        passage, version, _, batcher, answer = sharing
        # Methods and partials, not functions within: those would know each other, a cycle for each request, and what
        # collects them stops all others meanwhile.
        settle = partial(self._settle_share, sharing, bound)
        call, rows, wanted, usual = passage.call, bound.rows or 1, passage.wanted, passage.usual
        share = Share(bound.inputs, rows, wanted, settle, answer.cancelled, call.deadline, call.priority, usual)
        version.usage.begin()
        try:
            leave = batcher.submit(share)
        except KeelwayError:
            version.usage.end()
            raise
        if not answer.done():
            answer.leave = leave

    def _settle_share(self, sharing: Sharing, bound: BoundRequest, outcome: Outcome) -> None:
        passage, version, request, _, answer = sharing
        version.usage.end()
        if answer.cancelled():
            self._observe(passage, "CANCELLED")
            return
        try:
            if isinstance(outcome, Unusual):
                passage.bound = bound = self._validate(passage, version, request, bound)
                self._submit(sharing, bound)
                return
            if isinstance(outcome, RowsRefused):
                self._submit(sharing, self._without(passage, request, bound, outcome))
                return
            if not isinstance(outcome, Exception):
                answer.settle(self._finish(passage, version, request, bound, outcome))
                return
        except Exception as error:  # noqa: BLE001 - as in infer
            outcome = error
        answer.settle(self._failure(passage, outcome))

    def _later(
        self,
        passage: Passage,
        version: ServedVersion,
        request: InferenceRequest,
        bound: BoundRequest,
        outputs: Awaitable[Sequence[Array]],
    ) -> Waiting[Answer]:
        """The answer once ``outputs`` are there. What is begun here is ended by a callback of the task: a task that is
        cancelled before its first step runs nothing of its coroutine, not even a ``finally``."""
        run = asyncio.ensure_future(outputs)
        task = asyncio.ensure_future(self._finish_later(passage, version, request, bound, run))
        version.usage.begin()

        def settled(answer: asyncio.Task[Answer]) -> None:
            version.usage.end()
            if answer.cancelled():
                run.cancel()
                self._observe(passage, "CANCELLED")

        task.add_done_callback(settled)
        return waiting_for(task)

    async def _finish_later(
        self,
        passage: Passage,
        version: ServedVersion,
        request: InferenceRequest,
        bound: BoundRequest,
        outputs: asyncio.Future[Sequence[Array]],
    ) -> Answer:
        try:
            async with asyncio.timeout(max(0.0, passage.call.deadline - self.clock.monotonic())) as timer:
                while True:
                    try:
                        arrays = await outputs
                        break
                    except RowsRefused as refused:
                        bound = self._without(passage, request, bound, refused)
                        outputs = asyncio.ensure_future(self._outputs_later(passage, version, bound))
            return self._finish(passage, version, request, bound, arrays)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._fail(passage, RuntimeError("the model cancelled its own run"))
        except TimeoutError as error:
            late = DeadlineExceeded("the deadline passed before the model answered")
            self._fail(passage, late if timer.expired() else error)  # a model has timeouts of its own
        except Exception as error:  # noqa: BLE001 - as in infer
            self._fail(passage, error)

    def _finish(
        self,
        passage: Passage,
        version: ServedVersion,
        request: InferenceRequest,
        bound: BoundRequest,
        arrays: Sequence[Array],
    ) -> Answer:
        self._mark(passage)
        if passage.flight is not None and self._cache is not None:
            flight, passage.flight = passage.flight, None
            self._cache.land(flight, arrays, len(passage.wanted))
        call = passage.call
        datatypes = version.output_datatypes
        response = InferenceResponse(
            version.name,
            version.version,
            version.model_digest,
            version.policy_revision,
            call.request_id,
            self.clock.now(),
            [Tensor(name, datatypes[name], data) for name, data in zip(passage.wanted, arrays, strict=True)],
            version.roles,
            bound.rows,
            bound.row_errors,
            bound.positions,
            bound.tags,
            self.clock.monotonic() - passage.started,
        )
        encoded = call.codec.encode(response, request)
        self._mark(passage)
        self._observe(passage, "OK")
        return Answer(encoded, version, STATUS[passage.cache], passage.rate_limit)

    def _fail(self, passage: Passage, error: Exception) -> NoReturn:
        failure = self._failure(passage, error)
        try:
            raise failure from None
        finally:
            # An error keeps the frames that it came through, and this one would keep the error.
            del failure, error

    def _failure(self, passage: Passage, error: Exception) -> KeelwayError:
        """The error for the caller, once it is logged and counted."""
        if not isinstance(error, KeelwayError):
            log.error(
                "a stage raised %s", type(error).__name__, exc_info=error, extra={"request_id": passage.call.request_id}
            )
            bare(error)
            error = ModelFailed("the model could not answer this request")
        if self.gate.limiter is not None and not passage.charged:
            self.gate.limiter.fail(passage.call.principal, passage.call.peer)
        self._observe(passage, error.code, error)
        return bare(error)

    def _observe(self, passage: Passage, code: str, error: KeelwayError | None = None) -> None:
        """Metrics and the record of one request. Never raises, never waits."""
        if passage.flight is not None:
            self._settle(passage, error)
        call, version, bound = passage.call, passage.version, passage.bound
        now = self.clock.monotonic()
        duration = now - passage.started
        meters = self._metrics.of(version)
        meters.answered(call.transport, code, duration)
        if version is not None and (code == "OK" or code == "DEADLINE_EXCEEDED"):
            allowed = call.deadline - passage.started
            self.gate.admission.answered(version.model_digest, duration, allowed, now)
        if isinstance(error, InvalidInput):
            meters.refused(error.field)
        meters.anomalous(anomalies := getattr(error, "anomalies", None) or (bound.anomalies if bound else {}))
        meters.cached(passage.cache)
        if bound is not None:
            if code == "OK" and not passage.shares and passage.cache in OWN_RUN:
                meters.batch_size.observe(bound.rows or 1)
            meters.tagged(bound.tags)
            meters.rows_refused(bound.row_errors)
        if code == "OK" and passage.times is not None:
            meters.stages(passage.times)
        self._records.append(
            InferenceRecord(
                call.request_id,
                self.clock.now(),
                version.name if version else "",
                version.version if version else "",
                version.model_digest if version else "",
                version.policy_revision if version else 0,
                call.transport,
                call.principal.name,
                code,
                (bound.rows or 1) if bound else 0,
                duration,
                recorded_tags(bound.tags if bound else (), anomalies),
                passage.cache not in OWN_RUN,
            )
        )

    def _mark(self, passage: Passage) -> None:
        if passage.times is not None:
            passage.times.append(self.clock.monotonic())
