"""The request line: its order, its one outcome a request, and what every way out of it leaves behind."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import numpy as np
import pytest
from tests.line import GOOD, NOBODY, SECRET, VERSION, Line, assert_one_outcome, boom

from keelway.codecs.json import OpenInferenceCodec
from keelway.codecs.rows import RowCodec
from keelway.contract.binding import Binding
from keelway.dataplane import STAGE_SAMPLE
from keelway.errors import (
    ErrorCode,
    InvalidInput,
    KeelwayError,
    MalformedRequest,
    ModelFailed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    Unavailable,
    Unsupported,
)
from keelway.guard.validation import Validator
from keelway.observe.logs import JsonFormatter
from keelway.observe.metrics import STAGES
from keelway.observe.records import RecordRing
from keelway.ports import Encoded
from keelway.routing.snapshot import ServingSnapshot
from keelway.testing import FakeRuntime
from keelway.types import ANONYMOUS, InferenceRecord, Peer, Principal, Priority

# The order


def test_the_stages_follow_one_order_and_the_caller_pays_for_none_after_the_first_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # R3: parse, route, authorise, bind, validate, run, encode, observe.
    line = Line()
    passed: list[str] = []

    def spy(owner: Any, method: str, stage: str) -> None:
        real = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda *args, **more: passed.append(stage) or real(*args, **more))

    class Spy(Principal, frozen=True):
        def may(self, action: str, model: str) -> bool:
            passed.append("authorise")
            return super().may(action, model)

    for owner, method, stage in (
        (RowCodec, "parse", "parse"),
        (ServingSnapshot, "resolve", "route"),
        (Binding, "bind", "bind"),
        (Validator, "validate", "validate"),
        (FakeRuntime, "run", "run"),
        (RowCodec, "encode", "encode"),
        (RecordRing, "append", "observe"),
    ):
        spy(owner, method, stage)
    order = ["parse", "route", "authorise", "bind", "validate", "run", "encode", "observe"]
    ada = Spy("ada", frozenset({"predict:*"}))
    line.now(principal=ada)
    assert passed == order
    for body, rest, last in (
        (b"{", {}, "parse"),
        (GOOD, {"model": "nobody"}, "route"),
        (GOOD, {"principal": Spy("eve")}, "authorise"),
        (b'{"instances": [[1, 2, 3]]}', {}, "bind"),
        (b'{"instances": [[400, 1]]}', {}, "validate"),
    ):
        passed.clear()
        with pytest.raises(KeelwayError):
            line.now(body, **{"principal": ada, **rest})
        # Whether a model may be seen decides what is said of it: that is asked more than once.
        assert list(dict.fromkeys(passed)) == [*order[: order.index(last) + 1], "observe"]


def test_a_call_that_waits_for_nothing_is_answered_without_a_loop_or_a_task() -> None:
    # R6
    line = Line()
    answer = line.now()
    document = json.loads(answer.encoded.body)
    assert document["predictions"] == [{"score": 42.0, "pair": [40.0, 2.0]}]
    assert (document["model_version"], document["model_digest"]) == ("1.2.0", "sha256:d")
    assert (document["policy_revision"], document["request_id"]) == (7, "r-1")
    assert document["time"] == "1970-01-01T00:16:40.000000Z"
    assert answer.version is line.version
    assert line.runtime.calls == [("score", "pair")]


def test_requested_outputs_alone_are_computed_in_the_order_asked_for() -> None:
    # R1
    line = Line()
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [40, 2]}

    def ask(*outputs: str) -> list[str]:
        body = json.dumps({"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}).encode()
        document = json.loads(line.now(body, codec=OpenInferenceCodec()).encoded.body)
        return [output["name"] for output in document["outputs"]]

    assert ask("pair") == ["pair"]
    assert ask("pair", "score") == ["pair", "score"]
    assert ask() == ["score", "pair"]
    assert line.runtime.calls == [("pair",), ("pair", "score"), ("score", "pair")]
    for wrong in (("nothing",), ("score", "score")):
        with pytest.raises(InvalidInput):
            ask(*wrong)
    assert len(line.runtime.calls) == 3


def test_bad_rows_of_people_stand_beside_good_ones_and_tensors_fail_whole() -> None:
    # R1 R2
    line = Line()
    document = json.loads(line.now(b'{"instances": [[40, 1], [true, 1], [400, 1], [10, null]]}').encoded.body)
    assert [row and row["score"] for row in document["predictions"]] == [41.0, None, None, None]
    assert document["predictions"][3] == {"score": None, "pair": [10.0, None]}
    assert [entry["row"] for entry in document["errors"]] == [1, 2]
    assert document["flags"] == ["out_of_range:age"]
    tensor = {"name": "input", "datatype": "FP32", "shape": [2, 2], "data": [40, 1, 400, 1]}
    with pytest.raises(InvalidInput, match="row 1: 'age' is outside its declared range"):
        line.now(json.dumps({"inputs": [tensor]}).encode(), codec=OpenInferenceCodec())


# Outcomes


REFUSALS: list[tuple[bytes, dict[str, Any], type[KeelwayError], tuple[str, str]]] = [
    (b"{", {}, MalformedRequest, NOBODY),
    (GOOD, {"header_length": 3}, MalformedRequest, NOBODY),
    (GOOD, {"model": SECRET}, NotFound, NOBODY),
    (GOOD, {"selector": SECRET}, NotFound, NOBODY),
    (GOOD, {"model": "asleep"}, Unavailable, NOBODY),
    (GOOD, {"principal": Principal("eve")}, NotFound, VERSION),
    (b'{"instances": [{"sentinel-4711": 1}]}', {}, InvalidInput, VERSION),
    (b'{"instances": [["sentinel-4711", 1]]}', {}, InvalidInput, VERSION),
    (b'{"instances": [[400, 1]]}', {}, InvalidInput, VERSION),
    (b'{"instances": [' + b"[1,1]," * 10 + b"[1,1]]}", {}, PayloadTooLarge, VERSION),
]


@pytest.mark.parametrize(("body", "rest", "kind", "of"), REFUSALS)
def test_a_refusal_is_counted_once_under_names_that_no_caller_can_make_up(
    body: bytes, rest: dict[str, Any], kind: type[KeelwayError], of: tuple[str, str]
) -> None:
    # M1 M2 R3
    line = Line()
    with pytest.raises(KeelwayError) as refused:
        line.now(body, **rest)
    assert type(refused.value) is kind
    record = assert_one_outcome(line, kind.code, of)
    assert record.model_digest == ("sha256:d" if of == VERSION else "")
    assert SECRET not in line.metrics.render().decode()
    assert SECRET not in str(record)
    assert SECRET not in f"{refused.value.message} {refused.value.hint} {refused.value.field}"
    assert line.runtime.calls == []


def test_a_record_says_what_happened_and_holds_no_value() -> None:
    # M1
    line = Line()
    line.now(
        b'{"instances": [[7, 987654], [40, 1], [true, 1]]}', principal=Principal("ada", frozenset({"predict:churn"}))
    )
    (record,) = line.records()
    assert record == InferenceRecord(
        "r-1", 1_000.0, *VERSION, "sha256:d", 7, "rest_v1", "ada", "OK", 2, 0.0, ("out_of_range:age",)
    )
    assert "987654" not in str(record)


def test_refused_fields_rows_and_tags_are_counted_under_names_of_the_signature() -> None:
    # M1 M2
    line = Line()
    line.now(b'{"instances": [[40, 1], [true, 1], [400, 1], [7, 1], {"sentinel-4711": 1}]}')
    with pytest.raises(InvalidInput):
        line.now(b'{"instances": [["x", 1]]}')
    assert line.samples("ml_validation_failures_total") == {(*VERSION, "age"): 3, (*VERSION, ""): 1}
    assert line.samples("ml_rows_refused_total") == {VERSION: 3}
    assert line.samples("ml_input_tags_total") == {(*VERSION, "out_of_range:age"): 1}
    assert line.samples("ml_batch_size_sum") == {VERSION: 2}
    assert SECRET not in line.metrics.render().decode()


def test_records_beyond_the_ring_are_dropped_and_counted() -> None:
    # M1
    line = Line(ring=2)
    for _ in range(5):
        line.now()
    assert line.ring.dropped == 3
    assert len(line.records()) == 2


def test_one_request_in_sixteen_has_its_stages_timed() -> None:
    # M1
    line = Line()
    with pytest.raises(MalformedRequest):
        line.now(b"{")
    for _ in range(2 * STAGE_SAMPLE):
        line.now()
    counts = line.samples("ml_stage_duration_seconds_count")
    assert counts == {(*VERSION, stage): 2 for stage in STAGES if stage != "cache"} | {
        (*NOBODY, stage): 0 for stage in STAGES if stage != "cache"
    }


def test_a_models_exception_stays_in_the_log_and_its_text_out_of_it() -> None:
    # R3 M3
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("keelway.dataplane")
    logger.addHandler(handler)
    try:
        line = Line(boom)
        with pytest.raises(ModelFailed) as failed:
            line.now()
    finally:
        logger.removeHandler(handler)
    assert failed.value.message == "the model could not answer this request"
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__
    assert_one_outcome(line, "INTERNAL")
    (entry,) = map(json.loads, stream.getvalue().splitlines())
    assert (entry["message"], entry["request_id"]) == ("a stage raised ValueError", "r-1")
    assert "in boom" in entry["exception"]
    assert SECRET not in stream.getvalue()


def test_an_error_that_a_model_means_for_the_caller_reaches_him() -> None:
    def picky(inputs: Any) -> Any:
        raise Unsupported("only on Sundays")

    line = Line(picky)
    with pytest.raises(Unsupported, match="only on Sundays"):
        line.now()
    assert_one_outcome(line, "UNIMPLEMENTED")


def test_an_answer_that_cannot_be_written_is_one_failure_and_no_success() -> None:
    # M2
    class Mute(RowCodec):
        def encode(self, response: Any, request: Any) -> Encoded:
            raise RuntimeError(SECRET)

    line = Line()
    with pytest.raises(ModelFailed):
        line.now(codec=Mute())
    assert_one_outcome(line, "INTERNAL")


# Permits and who may ask


def test_without_a_permit_a_request_is_refused_before_it_is_read_and_counted_as_shed() -> None:
    # R3 M1
    line = Line(permits=1)
    gate = line.plane.gate
    assert gate.enter(Priority.INTERACTIVE, ANONYMOUS, Peer("")) is None
    for _ in range(2):
        refused = gate.enter(Priority.INTERACTIVE, ANONYMOUS, Peer(""))
        assert isinstance(refused, Overloaded)
        line.plane.refused("rest_v1", refused)
    gate.leave(ANONYMOUS)
    assert gate.enter(Priority.INTERACTIVE, ANONYMOUS, Peer("")) is None
    gate.leave(ANONYMOUS)
    assert line.samples("ml_requests_shed_total") == {("limit",): 2}
    assert line.outcomes() == {(*NOBODY, "rest_v1", "UNAVAILABLE"): 2}
    assert line.plane.gate.admission.in_flight == 0


@pytest.mark.parametrize("scopes", [frozenset[str](), frozenset({"predict:other"}), frozenset({"read:churn"})])
def test_a_hidden_model_looks_like_an_unknown_one(scopes: frozenset[str]) -> None:
    # U1 R3
    line = Line()
    seen = []
    for model, selector in (("churn", None), ("churn", "1.2.0"), ("churn", "9.9.9"), ("nobody", None)):
        with pytest.raises(KeelwayError) as refused:
            line.now(model=model, selector=selector, principal=Principal("eve", scopes))
        error = refused.value
        seen.append((type(error), error.code, error.message, error.hint, error.field, error.retry_after))
    assert set(seen) == {(NotFound, ErrorCode.NOT_FOUND, "no such model or version is served here", None, None, None)}


@pytest.mark.parametrize("scopes", [{"predict:*"}, {"predict:churn"}, {"admin"}, {"predict:other", "predict:churn"}])
def test_a_scope_for_the_model_opens_it(scopes: set[str]) -> None:
    # U1
    line = Line()
    line.now(principal=Principal("ada", frozenset(scopes)))
    line.now(principal=ANONYMOUS)
    assert [record.principal for record in line.records()] == ["ada", "anonymous"]


def test_answers_are_not_mixed_up_between_arrays_of_one_model() -> None:
    # T3
    line = Line()
    for age in (20.0, 30.0):
        document = json.loads(line.now(json.dumps({"instances": [[age, 1], [age + 1, 1]]}).encode()).encoded.body)
        assert [row["score"] for row in document["predictions"]] == [age + 1, age + 2]
        assert np.array([row["pair"] for row in document["predictions"]]).tolist() == [[age, 1], [age + 1, 1]]
