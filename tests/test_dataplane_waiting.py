"""The request line where something has to wait: threads, slow models, deadlines, and callers who leave."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import pytest
from tests.line import VERSION, Line, assert_one_outcome, boom, one_worker, run, scores

from keelway.batching.waiting import Waiting
from keelway.errors import DeadlineExceeded, KeelwayError, ModelFailed, NotFound
from keelway.routing.snapshot import ServingSnapshot
from keelway.types import Array


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_call_that_must_wait_is_awaited_whether_the_model_or_a_thread_is_slow(in_thread: bool) -> None:
    # R6
    async def scenario(executor: Executor | None) -> None:
        line = Line(executor=executor) if executor else Line(delay=0.001)
        answer = await line.later()
        assert json.loads(answer.encoded.body)["predictions"] == [{"score": 42.0, "pair": [40.0, 2.0]}]
        await line.assert_idle()
        assert_one_outcome(line, "OK")
        assert line.samples("ml_queue_delay_seconds_count") == {VERSION: float(in_thread)}

    with one_worker() as executor:
        run(scenario(executor if in_thread else None))


def test_work_whose_time_ran_out_in_the_queue_is_not_run() -> None:
    # R5
    async def scenario(executor: Executor) -> None:
        free = threading.Event()
        line = Line(executor=executor)
        executor.submit(free.wait)
        waiting = asyncio.ensure_future(line.later(deadline=5.0))
        await asyncio.sleep(0.01)
        line.clock.advance(6.0)
        free.set()
        with pytest.raises(DeadlineExceeded, match="while the request waited for the model"):
            await waiting
        assert line.runtime.calls == []
        assert_one_outcome(line, "DEADLINE_EXCEEDED")
        await line.assert_idle()

    with one_worker() as executor:
        run(scenario(executor))


@pytest.mark.parametrize("answer", ["right", "refused", "failed"])
def test_a_request_that_waited_is_forgotten_without_the_collector(answer: str) -> None:
    # A cycle for each request, and the collector stops all others at the worst moment to find them.
    def left() -> int:
        return sum(type(thing).__name__ in ("Passage", "Sharing") for thing in gc.get_objects())

    async def scenario(executor: Executor) -> None:
        line = Line(boom if answer == "failed" else scores, executor=executor)
        for _ in range(20):
            try:
                await (line.later(b"words") if answer == "refused" else line.later())
                assert answer == "right"
            except KeelwayError as error:
                error.__traceback__ = None  # as at the end of whoever has written the reply
        await line.assert_idle()
        executor.submit(int).result()  # so that the thread has let go of what it ran before
        assert left() == 0

    logging.disable()  # what pytest keeps of the log keeps the frames of errors
    gc.collect()
    gc.disable()
    try:
        with one_worker() as executor:
            run(scenario(executor))
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_caller_hears_at_his_deadline_however_slow_the_model_is(in_thread: bool) -> None:
    # R5: what is still in the queue then is never run.
    async def scenario(executor: Executor) -> None:
        free = threading.Event()
        executor.submit(free.wait)
        line = Line(executor=executor) if in_thread else Line(delay=30)
        with pytest.raises(DeadlineExceeded, match="before the model answered"):
            await line.later(deadline=0.02)
        free.set()
        executor.submit(int).result()  # the queue is empty behind it
        assert len(line.runtime.calls) == (0 if in_thread else 1)
        assert_one_outcome(line, "DEADLINE_EXCEEDED")
        await line.assert_idle()

    with one_worker() as executor:
        run(scenario(executor))


@pytest.mark.parametrize("way", ["thread", "awaitable"])
def test_a_model_that_times_out_by_itself_has_failed_and_is_not_late(way: str) -> None:
    # R5: 504 would send the caller looking at his own clock.
    def slow_feature_store(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise TimeoutError("feature store")

    async def scenario(executor: Executor) -> None:
        line = Line(
            slow_feature_store, delay=0.001 * (way == "awaitable"), executor=executor if way == "thread" else None
        )
        with pytest.raises(ModelFailed):
            await line.later()
        assert_one_outcome(line, "INTERNAL")

    with one_worker() as executor:
        run(scenario(executor))


def test_a_model_that_cancels_its_own_run_has_failed_and_nobody_has_left() -> None:
    # T3: taken for the caller's leaving, he would never be answered.
    def cancels(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise asyncio.CancelledError

    async def scenario() -> None:
        line = Line(cancels, delay=0.001)
        with pytest.raises(ModelFailed):
            await line.later()
        assert_one_outcome(line, "INTERNAL")
        await line.assert_idle()

    run(scenario())


@pytest.mark.parametrize("way", ["thread", "awaitable"])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_caller_who_leaves_is_counted_as_such_and_waiting_work_is_skipped(way: str, steps: int) -> None:
    # R5 M2: before the first step of the task, at it, and in the middle of the wait.
    async def scenario(executor: Executor) -> None:
        free = threading.Event()
        executor.submit(free.wait)
        line = Line(executor=executor) if way == "thread" else Line(delay=30)
        answer = line.plane.infer(line.call())
        assert isinstance(answer, Waiting)
        work = answer.future()
        for _ in range(steps):
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await asyncio.sleep(0.01)
        free.set()
        executor.submit(int).result()
        assert line.runtime.calls == ([] if way == "thread" else [("score", "pair")])
        assert_one_outcome(line, "CANCELLED")
        await line.assert_idle()

    with one_worker() as executor:
        run(scenario(executor))


def test_a_version_is_in_use_until_its_last_awaited_answer() -> None:
    # R6
    async def scenario() -> None:
        line = Line(delay=0.01)
        waiting = [asyncio.ensure_future(line.later()) for _ in range(3)]
        await asyncio.sleep(0)
        idle = asyncio.ensure_future(line.version.usage.idle())
        await asyncio.sleep(0)
        assert not idle.done()
        waiting[0].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await line.assert_idle()
        assert line.outcomes() == {(*VERSION, "rest_v1", "OK"): 2, (*VERSION, "rest_v1", "CANCELLED"): 1}

    run(scenario())


def test_many_slow_requests_at_once_each_get_their_own_answer() -> None:
    # T3
    async def scenario(executor: Executor) -> None:
        line = Line(executor=executor)
        bodies = [f'{{"instances": [[{age}, 1]]}}'.encode() for age in range(20, 60)]
        answers = await asyncio.gather(*(line.later(body) for body in bodies))
        assert [json.loads(answer.encoded.body)["predictions"][0]["score"] for answer in answers] == list(range(21, 61))
        assert line.outcomes() == {(*VERSION, "rest_v1", "OK"): 40}
        await line.assert_idle()

    with one_worker() as executor:
        run(scenario(executor))


def test_a_request_keeps_the_snapshot_it_has_read() -> None:
    # R6: the answer names the version that gave it, whatever has been swapped in meanwhile.
    async def scenario() -> None:
        line = Line(delay=0.01)
        waiting = asyncio.ensure_future(line.later())
        await asyncio.sleep(0)
        line.plane.snapshot = ServingSnapshot()
        assert (await waiting).version is line.version
        with pytest.raises(NotFound):
            line.now()

    run(scenario())


@pytest.mark.parametrize(
    "function",
    [boom, lambda inputs: {"score": inputs["input"]}, lambda inputs: {"score": [object()], "pair": [object()]}],
    ids=["raises", "leaves an output out", "answers no arrays"],
)
@pytest.mark.parametrize("way", ["inline", "thread", "awaitable"])
def test_whatever_a_model_does_wrong_is_its_own_failure_on_every_way(function: Any, way: str) -> None:
    # R3 T3
    async def scenario(executor: Executor) -> None:
        line = Line(function, delay=0.001 * (way == "awaitable"), executor=executor if way == "thread" else None)
        with pytest.raises(ModelFailed):
            line.now() if way == "inline" else await line.later()
        assert_one_outcome(line, "INTERNAL")
        await line.assert_idle()

    with one_worker() as executor:
        run(scenario(executor))
