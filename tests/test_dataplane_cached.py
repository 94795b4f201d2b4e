"""The request line with a cache: what an answer from it looks like, what it leaves behind, and whom it may go to."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.line import SIGNATURE, VERSION, Line, boom, one_worker, run, scores

from keelway.batching.waiting import Waiting
from keelway.codecs.json import OpenInferenceCodec
from keelway.contract.binding import Binding
from keelway.contract.constraints import Policy
from keelway.contract.signature import Feature, ModelSignature
from keelway.dataplane import STAGE_SAMPLE, Answer
from keelway.errors import DeadlineExceeded, InvalidInput, KeelwayError, ModelFailed, RowsRefused
from keelway.guard.validation import Validator
from keelway.observe.metrics import STAGES
from keelway.routing.snapshot import ServedModel, ServedVersion, ServingSnapshot
from keelway.testing import FakeRuntime
from keelway.types import Array, Principal, TensorSpec

HIT, MISS, SHARED, BYPASS = (
    b"keelway; hit",
    b"keelway; fwd=miss",
    b"keelway; fwd=miss; collapsed",
    b"keelway; fwd=bypass",
)
ON: Mapping[str, Any] = {}
MANY = b'{"instances": [[40, 1], [150, 2], [41, 3], {"income": 4}, [42, 5]]}'


def document(answer: Answer) -> Any:
    return json.loads(answer.encoded.body)


def without_what_is_its_own(answer: Answer) -> Any:
    return {name: value for name, value in document(answer).items() if name not in ("request_id", "time")}


def results(line: Line) -> Counter[str]:
    found: Counter[str] = Counter()
    for (*_, result), count in line.samples("ml_cache_requests_total").items():
        found[result] += int(count)
    return found


def test_without_the_setting_every_request_is_run_and_no_answer_speaks_of_a_cache() -> None:
    # A2
    line = Line()
    answers = [line.now() for _ in range(2)]
    assert len(line.runtime.calls) == 2
    assert [answer.cache_status for answer in answers] == [b"", b""]
    assert line.samples("ml_cache_requests_total") == {}
    assert b"ml_cache_bytes{" not in line.metrics.render()


def test_an_equal_request_is_answered_equally_without_a_run_under_its_own_id_and_time() -> None:
    # A2 R6
    line = Line(cache=ON)
    first = line.now()
    line.clock.advance(5.0)
    second = line.now(b'{"features": [40.0, 2e0]}', request_id="r-2")
    assert len(line.runtime.calls) == 1
    assert (first.cache_status, second.cache_status) == (MISS, HIT)
    assert without_what_is_its_own(first) == without_what_is_its_own(second)
    assert document(second)["request_id"] == "r-2"
    assert document(second)["time"] != document(first)["time"]
    assert (document(second)["model_digest"], second.version) == ("sha256:d", line.version)


def test_a_hit_counts_in_requests_and_records_but_not_as_a_run() -> None:
    # A3 M1
    line = Line(cache=ON)
    line.now()
    line.now(b'{"instances": [[150, 1], [17, 1]]}')
    for _ in range(2):
        line.now(b'{"instances": [[17, 1], [150, 1]]}')
    assert line.outcomes() == {(*VERSION, "rest_v1", "OK"): 4}
    assert results(line) == {"miss": 2, "hit": 2}
    assert line.samples("ml_batch_size_count")[VERSION] == 2
    assert line.samples("ml_input_tags_total") == {(*VERSION, "out_of_range:age"): 3}
    assert line.samples("ml_rows_refused_total") == {VERSION: 3}
    records = line.records()
    assert [record.cached for record in records] == [False, False, True, True]
    assert [list(record.tags) for record in records[1:]] == [["out_of_range:age"]] * 3


def test_rows_refused_beside_cached_ones_are_this_requests_own() -> None:
    # A2 R2
    plain, cached = Line(), Line(cache=ON)
    other = b'{"instances": [[40, 1], [41, 3], {"age": null, "income": 2}, [42, 5], [131, 0]]}'
    for body in (MANY, other, MANY, other):
        assert without_what_is_its_own(cached.now(body)) == without_what_is_its_own(plain.now(body))
    assert len(cached.runtime.calls) == 1, "the good rows are the same"
    assert results(cached) == {"miss": 1, "hit": 3}


def test_a_request_with_a_missing_value_is_run_each_time() -> None:
    # A1: missing is NaN, and that is not equal to itself.
    line = Line(cache=ON)
    body = b'{"instances": [{"age": 40, "income": null}]}'
    assert [line.now(body).cache_status for _ in range(2)] == [BYPASS, BYPASS]
    assert len(line.runtime.calls) == 2
    assert results(line) == {"bypass": 2}
    assert not any(record.cached for record in line.records())


def test_a_model_that_is_left_out_is_run_each_time() -> None:
    # A2
    line = Line(cache={"exclude": ["churn"]})
    assert [line.now().cache_status for _ in range(2)] == [BYPASS, BYPASS]
    assert len(line.runtime.calls) == 2


def test_formats_share_what_they_ask_for_and_nothing_else() -> None:
    # A1 A2
    line = Line(cache=ON)
    tensors = b'{"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [40, 2]}]%s}'
    one_output = tensors % b', "outputs": [{"name": "score"}]'
    assert line.now().cache_status == MISS
    for body, expected in ((tensors % b"", HIT), (one_output, MISS), (one_output, HIT)):
        assert line.now(body, codec=OpenInferenceCodec(), transport="rest_v2").cache_status == expected
    assert list(line.runtime.calls) == [("score", "pair"), ("score",)]


def test_principals_of_different_tenants_never_get_each_others_answers() -> None:
    # A1
    line = Line(cache=ON)
    scopes = frozenset({"predict:*"})
    asking = [
        Principal("ada", scopes, "acme"),
        Principal("bob", scopes, "other"),
        Principal("eve", scopes),
        Principal("fay", scopes, ""),
        Principal("gil", scopes, "acme"),
    ]
    assert [line.now(principal=one).cache_status for one in asking] == [MISS, MISS, MISS, MISS, HIT]


def versions(line: Line, **changed: Any) -> ServedVersion:
    """The version of ``line`` with another runtime behind it, and whatever else is ``changed``."""
    given = {"name": VERSION[0], "version": VERSION[1], "model_digest": "sha256:d", "policy_revision": 7, **changed}
    runtime = FakeRuntime(
        SIGNATURE.inputs,
        SIGNATURE.outputs,
        lambda inputs: {"score": inputs["input"].sum(axis=1) + 1000, "pair": inputs["input"]},
    )
    return ServedVersion(
        given["name"],
        given["version"],
        given["model_digest"],
        given["policy_revision"],
        SIGNATURE,
        Binding(SIGNATURE, 10),
        Validator(SIGNATURE, Policy(given["policy_revision"]), None),
        runtime,
        None,
    )


@pytest.mark.parametrize(
    "changed",
    [{"model_digest": "sha256:e"}, {"version": "1.3.0"}, {"name": "other"}, {"policy_revision": 8}],
    ids=lambda changed: next(iter(changed)),
)
def test_an_answer_is_the_served_versions_own_after_a_reload(changed: dict[str, Any]) -> None:
    # R6 A1
    line = Line(cache=ON)
    before = document(line.now())
    version = versions(line, **changed)
    line.plane.snapshot = ServingSnapshot({"churn": ServedModel("churn", {version.version: version}, version.version)})
    after = document(line.now())
    assert after["predictions"][0]["score"] == before["predictions"][0]["score"] + 1000
    assert after["model_digest"] == version.model_digest
    assert results(line) == {"miss": 2}


def test_a_model_without_a_batch_axis_is_kept_too() -> None:
    # A2
    signature = ModelSignature(
        (Feature("x", "FP32", (2,)),), (TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", ()),)
    )
    runtime = FakeRuntime(signature.inputs, signature.outputs, lambda inputs: {"y": inputs["x"].sum()})
    line = Line(cache=ON)
    version = ServedVersion(
        "churn",
        "1",
        "sha256:s",
        1,
        signature,
        Binding(signature, 10),
        Validator(signature, Policy(1), None),
        runtime,
        None,
    )
    line.plane.snapshot = ServingSnapshot({"churn": ServedModel("churn", {"1": version}, "1")})
    body = b'{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [%s]}]}'
    answers = [line.now(body % data, codec=OpenInferenceCodec()) for data in (b"1, 2", b"1.0, 2.0", b"2, 1")]
    assert [document(answer)["outputs"][0]["data"] for answer in answers] == [[3.0], [3.0], [3.0]]
    assert [answer.cache_status for answer in answers] == [MISS, HIT, MISS]


def refuses(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    raise InvalidInput("no such customer", field="age")


def test_a_deterministic_refusal_is_answered_from_memory_and_counted_as_a_refusal() -> None:
    # A2 A3
    line = Line(refuses, cache=ON)
    for _ in range(3):
        with pytest.raises(InvalidInput, match="no such customer"):
            line.now()
    assert len(line.runtime.calls) == 1
    assert line.outcomes() == {(*VERSION, "rest_v1", "INVALID_ARGUMENT"): 3}
    assert line.samples("ml_validation_failures_total") == {(*VERSION, "age"): 3}
    assert [record.cached for record in line.records()] == [False, True, True]


def picky(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """Refuses rows by itself, as a step that reads pictures does."""
    refused = {
        row: InvalidInput("is no picture", field="income", hint="send one")
        for row, value in enumerate(inputs["input"][:, 1].tolist())
        if value == 13
    }
    if refused:
        raise RowsRefused.of(refused)
    return scores(inputs)


PICKED = (
    b'{"instances": [[40, 1], [41, 13], [42, 2], [150, 1], [43, 13]]}',
    b'{"instances": [[40, 1], [42, 2]]}',
    b'{"instances": [[40, 13], [41, 13]]}',
)
ROWS = b'{"inputs": [{"name": "input", "shape": [2, 2], "datatype": "FP32", "data": [40, 1, 41, 13]}]}'


@pytest.mark.parametrize("way", ["inline", "thread", "awaitable"])
@pytest.mark.parametrize("at_once", [1, 5])
def test_rows_that_the_model_itself_refuses_are_refused_beside_the_others_each_time(way: str, at_once: int) -> None:
    # A2 R2: never the answer to other rows than were asked for.
    async def outcome(line: Line, body: bytes, **rest: Any) -> Any:
        try:
            answer = line.plane.infer(line.call(body, **rest))
            return without_what_is_its_own(answer if isinstance(answer, Answer) else await answer.future())
        except InvalidInput as error:
            return type(error), error.message, error.field, error.hint

    async def scenario(executor: Executor) -> None:
        delay, thread = 0.001 * (way == "awaitable"), executor if way == "thread" else None
        plain, cached = (Line(picky, delay=delay, executor=thread, permits=99, cache=on) for on in (None, ON))
        for body in (*PICKED, PICKED[0], ROWS, PICKED[0], ROWS):
            rest: dict[str, Any] = {"codec": OpenInferenceCodec()} if body is ROWS else {}
            expected = await outcome(plain, body, **rest)
            found = await asyncio.gather(*(outcome(cached, body, **rest) for _ in range(at_once)))
            assert found == [expected] * at_once
        assert len(cached.runtime.calls) < at_once * len(plain.runtime.calls)
        await cached.assert_idle()

    with one_worker() as executor:
        run(scenario(executor))


def test_a_models_failure_is_nobody_elses() -> None:
    # A2
    line = Line(boom, cache=ON)
    for _ in range(2):
        with pytest.raises(ModelFailed):
            line.now()
    assert len(line.runtime.calls) == 2
    assert results(line) == {"miss": 2}


@pytest.mark.parametrize(
    "function",
    [lambda inputs: {"score": [object()], "pair": [object()]}, lambda inputs: {"score": 1.0, "pair": None}],
    ids=["lists", "scalars"],
)
def test_what_a_model_should_not_answer_is_not_kept(function: Any) -> None:
    # A2 R3
    line = Line(function, cache=ON)
    for _ in range(2):
        with pytest.raises(ModelFailed):
            line.now()
    assert len(line.runtime.calls) == 2


def test_an_answer_that_one_format_cannot_write_is_kept_for_the_others() -> None:
    # A2: what encoding refuses is no refusal of the model's.
    def raw(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        text = np.empty(1, object)
        text[0] = b"\xff"
        return {"score": text, "pair": inputs["input"]}

    line = Line(raw, cache=ON)
    tensors = b'{"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [40, 2]}]%s}'
    with pytest.raises(KeelwayError, match="UTF-8"):
        line.now(tensors % b"", codec=OpenInferenceCodec())
    binary = line.now(tensors % b', "parameters": {"binary_data_output": true}', codec=OpenInferenceCodec())
    assert binary.cache_status == HIT
    with pytest.raises(KeelwayError, match="UTF-8"):
        line.now()
    assert len(line.runtime.calls) == 1


def test_the_time_of_the_cache_is_a_stage_of_what_is_run_and_hits_are_no_runs() -> None:
    # M1
    line = Line(cache=ON)
    for number in range(2 * STAGE_SAMPLE):
        line.now(b'{"instances": [[40, %d]]}' % number)
    for _ in range(2 * STAGE_SAMPLE):
        line.now()
    counts = line.samples("ml_stage_duration_seconds_count")
    assert counts == {(*VERSION, stage): 2 for stage in STAGES}


# Requests at once


def at_once(line: Line, times: int = 50, **rest: Any) -> list[Waiting[Answer] | Answer]:
    return [line.plane.infer(line.call(request_id=f"r-{number}", **rest)) for number in range(times)]


def future(answer: Waiting[Answer] | Answer) -> asyncio.Future[Answer]:
    assert isinstance(answer, Waiting)
    return answer.future()


async def awaited(answers: list[Waiting[Answer] | Answer]) -> list[Answer]:
    return [answer if isinstance(answer, Answer) else await answer.future() for answer in answers]


def line_of(way: str, executor: Executor, function: Any = scores) -> Line:
    match way:
        case "thread":
            return Line(function, executor=executor, cache=ON)
        case "awaitable":
            return Line(function, delay=0.005, cache=ON)
        case _:
            return Line(function, cache=ON, batched=True)


WAYS = pytest.mark.parametrize("way", ["thread", "awaitable", "batched"])


@WAYS
def test_fifty_equal_requests_at_once_are_one_run_and_fifty_answers(way: str) -> None:
    # A2
    async def scenario(executor: Executor) -> None:
        line = line_of(way, executor)
        answers = await awaited(at_once(line))
        assert len(line.runtime.calls) == 1
        assert [answer.cache_status for answer in answers] == [MISS] + [SHARED] * 49
        assert len({json.dumps(without_what_is_its_own(answer)) for answer in answers}) == 1
        assert [document(answer)["request_id"] for answer in answers] == [f"r-{number}" for number in range(50)]
        assert line.outcomes() == {(*VERSION, "rest_v1", "OK"): 50}
        assert line.samples("ml_batch_size_count")[VERSION] == 1
        assert [record.cached for record in line.records()].count(True) == 49
        await line.assert_idle()
        assert line.now().cache_status == HIT

    with one_worker() as executor:
        run(scenario(executor))


@WAYS
def test_a_leader_who_leaves_costs_the_others_nothing(way: str) -> None:
    # A2 R5
    async def scenario(executor: Executor) -> None:
        line = line_of(way, executor)
        leader, *others = (answer.future() for answer in at_once(line, 10) if not isinstance(answer, Answer))
        leader.cancel()
        answers = await asyncio.gather(*others)
        assert {json.dumps(without_what_is_its_own(answer)) for answer in answers} == {
            json.dumps(without_what_is_its_own(Line().now()))
        }
        assert line.outcomes() == {(*VERSION, "rest_v1", "OK"): 9, (*VERSION, "rest_v1", "CANCELLED"): 1}
        await line.assert_idle()

    with one_worker() as executor:
        run(scenario(executor))


@WAYS
def test_a_leader_whose_run_fails_fails_alone(way: str) -> None:
    # A2 T3
    async def scenario(executor: Executor) -> None:
        failures = [ValueError("once")]

        def fails_once(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            if failures:
                raise failures.pop()
            return scores(inputs)

        line = line_of(way, executor, fails_once)
        outcomes = await asyncio.gather(*map(future, at_once(line, 10)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ModelFailed] + [Answer] * 9
        assert line.outcomes() == {(*VERSION, "rest_v1", "OK"): 9, (*VERSION, "rest_v1", "INTERNAL"): 1}
        assert len(line.runtime.calls) == 2
        await line.assert_idle()

    with one_worker() as executor:
        run(scenario(executor))


@WAYS
@pytest.mark.parametrize("error", [StopIteration(), ValueError("always")], ids=["StopIteration", "ValueError"])
def test_a_model_that_always_fails_is_an_answer_to_everybody(way: str, error: Exception) -> None:
    # A2 T3
    async def scenario(executor: Executor) -> None:
        def fails(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            raise error

        line = line_of(way, executor, fails)
        if way == "thread" and isinstance(error, StopIteration):
            return  # no future of a thread takes one; without a cache it is the same
        outcomes = await asyncio.gather(*map(future, at_once(line, 10)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ModelFailed] * 10
        assert line.outcomes() == {(*VERSION, "rest_v1", "INTERNAL"): 10}
        await line.assert_idle()

    with one_worker() as executor:
        run(scenario(executor))


def test_each_follower_hears_at_its_own_deadline() -> None:
    # A2 R5
    async def scenario() -> None:
        line = Line(delay=0.2, cache=ON)
        first = asyncio.ensure_future(line.later(deadline=60.0))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await line.later(deadline=0.01)
        assert (await first).cache_status == MISS
        assert len(line.runtime.calls) == 1
        await line.assert_idle()

    run(scenario())


def test_a_leader_whose_deadline_passes_leaves_the_work_to_one_who_has_time() -> None:
    # A2 R5
    async def scenario() -> None:
        line = Line(delay=0.05, cache=ON)
        hasty = asyncio.ensure_future(line.later(deadline=0.01))
        await asyncio.sleep(0)
        patient = [asyncio.ensure_future(line.later()) for _ in range(5)]
        with pytest.raises(DeadlineExceeded):
            await hasty
        answers = await asyncio.gather(*patient)
        assert sorted(answer.cache_status for answer in answers) == [MISS] + [SHARED] * 4
        assert len(line.runtime.calls) == 2
        await line.assert_idle()

    run(scenario())


def test_requests_that_differ_are_still_run_together() -> None:
    # A2 T1
    async def scenario() -> None:
        line = Line(cache=ON, batched=True)
        bodies = [b'{"instances": [[40, %d]]}' % (number % 4) for number in range(8)]
        answers = await awaited([line.plane.infer(line.call(body)) for body in bodies])
        assert [document(answer)["predictions"][0]["score"] for answer in answers] == [40 + n % 4 for n in range(8)]
        assert len(line.runtime.calls) == 1
        assert line.samples("ml_batch_size_sum")[VERSION] == 4

    run(scenario())


def test_no_request_gets_anothers_answer_whoever_leaves_and_whatever_fails() -> None:
    # A2 T3: many at once, of few kinds, some of which leave, some of which fail.
    async def scenario(executor: Executor) -> None:
        chance = np.random.default_rng(7)

        def moody(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            if chance.random() < 0.3:
                raise ValueError("moody")
            return scores(inputs)

        line = Line(moody, executor=executor, cache={"max_bytes": 3_000}, ring=10_000)

        async def one(number: int) -> str:
            income = number % 7
            asked = line.plane.infer(line.call(b'{"instances": [[40, %d]]}' % income, request_id=f"r-{number}"))
            if not isinstance(asked, Answer):
                task = asked.future()
                if number % 11 == 0:
                    await asyncio.sleep(0.001 * chance.random())
                    task.cancel()
                try:
                    asked = await task
                except ModelFailed:
                    return "failed"
                except asyncio.CancelledError:
                    return "left"
            assert document(asked)["predictions"][0]["score"] == 40 + income
            assert document(asked)["request_id"] == f"r-{number}"
            return "answered"

        outcomes: list[str] = []
        for start in range(0, 600, 60):
            outcomes += await asyncio.gather(*(one(number) for number in range(start, start + 60)))
        assert {outcome: outcomes.count(outcome) > 0 for outcome in ("failed", "left", "answered")} == {
            "failed": True,
            "left": True,
            "answered": True,
        }
        assert sum(line.outcomes().values()) == 600
        await line.assert_idle()

    with ThreadPoolExecutor(2) as executor:
        run(scenario(executor))
