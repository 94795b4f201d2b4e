"""What can be sent, and what is refused before it is: alike for both protocols, never repeating a value. # G0"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from keelway.client import Client
from keelway.client.failures import CLASSES, error_of
from keelway.client.rest import HttpReply, refusal
from keelway.client.results import confidence_of
from keelway.client.retries import Repeat
from keelway.client.rpc import CODE_NUMBERS, RpcReply
from keelway.client.rpc import refusal as rpc_refusal
from keelway.client.values import plain_rows, tensors_of
from keelway.errors import ErrorCode, InvalidInput, PayloadTooLarge, Unavailable
from keelway.transports.grpc.errors import STATUS as GRPC_STATUS
from keelway.transports.rest.errors import STATUS as HTTP_STATUS

ADDRESS = "http://server"


def test_values_of_numpy_and_tuples_become_plain() -> None:
    row = {
        "a": np.float32(0.5),
        "b": np.int8(-1),
        "c": np.bool_(True),
        "d": (1, 2.0),
        "e": np.array([[1, 2]]),
        "f": float("nan"),
        "g": b"text",
        "h": b"\xff",
        "i": np.str_("x"),
        "j": np.array([np.nan, 1.0]),
    }
    assert plain_rows(row) == [
        {"a": 0.5, "b": -1, "c": True, "d": [1, 2.0], "e": [[1, 2]], "f": None}
        | {"g": "text", "h": b"\xff", "i": "x", "j": [None, 1.0]}
    ]


@pytest.mark.parametrize(
    "value",
    [
        float("inf"),
        2**64,
        -(2**63) - 1,
        1j,
        datetime(2026, 1, 1, tzinfo=UTC),
        np.datetime64("2026-01-01"),
        np.longdouble(1),
        {"nested": 1},
        {1},
        object(),
        "half \ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_be_sent_is_refused_naming_its_feature(value: Any) -> None:
    for row in ({"age": value}, {"age": [1, value]}):
        with pytest.raises(InvalidInput, match="'age'"):
            plain_rows([row])


def test_lists_that_hold_themselves_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidInput, match="'age'"):
        plain_rows({"age": endless})


@pytest.mark.parametrize("rows", ["text", 1, [[1, 2]], [1], np.ones(2), [{1: 2}], [{"\ud800": 1}]])
def test_rows_are_mappings_with_names(rows: Any) -> None:
    with pytest.raises(InvalidInput):
        plain_rows(rows)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": [1.0]},
        {"x": np.array([1j])},
        {"x": np.array(["2026-01-01"], "datetime64[s]")},
        {"x": np.array([None], object)},
        {"x": np.array(["half \ud800"], object)},
        {"x": np.array([1], np.longdouble)},
        {1: np.ones(1)},
    ],
)
def test_inputs_are_arrays_of_a_datatype_of_the_protocol(inputs: Any) -> None:
    with pytest.raises(InvalidInput):
        tensors_of(inputs)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "grpc://127.0.0.1:1"])
@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "a?b", ".", 7, None])
def test_a_name_that_no_model_can_have_never_reaches_a_path(url: str, name: Any) -> None:
    with Client(url, retries=0) as client:
        with pytest.raises(InvalidInput, match="model"):
            client.predict(name, {"x": 1})
        if name is not None:
            with pytest.raises(InvalidInput, match="version"):
                client.predict("m", {"x": 1}, version=name)
        with pytest.raises(InvalidInput, match="outputs"):
            client.infer("m", {"x": np.ones(1)}, outputs="y")


# Errors


def test_every_code_has_its_class_over_both_protocols() -> None:
    assert set(CLASSES) == set(ErrorCode)
    assert [kind for code, kind in CLASSES.items() if kind.code is not code] == []
    assert {code: number for number, code in CODE_NUMBERS.items()} == {
        code: GRPC_STATUS[code].value for code in ErrorCode
    }


@pytest.mark.parametrize("code", list(ErrorCode))
def test_what_a_server_says_arrives_with_code_words_field_and_pause(code: ErrorCode) -> None:
    problem = f'{{"detail": "words", "code": "{code}", "field": "age"}}'.encode()
    over_rest = refusal(HttpReply(HTTP_STATUS[code], {"retry-after": "2", "x-request-id": "1"}, problem), ADDRESS)
    metadata = {"x-request-id": "1", "keelway-error-field": "age", "grpc-retry-pushback-ms": "2000"}
    over_grpc = rpc_refusal(RpcReply(status=str(code), details="words", metadata=metadata), ADDRESS, 1)
    for failure in (over_rest, over_grpc):
        error = failure.error
        assert type(error) is CLASSES[code]
        assert (error.message, error.field, error.retry_after) == ("words", "age", 2.0)
        assert failure.repeat is (Repeat.SAFE if code.retryable else Repeat.NEVER)


@pytest.mark.parametrize(
    ("status", "code", "repeat"),
    [
        (400, ErrorCode.INVALID_ARGUMENT, Repeat.NEVER),
        (415, ErrorCode.INVALID_ARGUMENT, Repeat.NEVER),
        (408, ErrorCode.DEADLINE_EXCEEDED, Repeat.NEVER),
        (500, ErrorCode.INTERNAL, Repeat.NEVER),
        (599, ErrorCode.INTERNAL, Repeat.NEVER),
        (502, ErrorCode.UNAVAILABLE, Repeat.IF_HARMLESS),
        (503, ErrorCode.UNAVAILABLE, Repeat.SAFE),
        (301, ErrorCode.UNAVAILABLE, Repeat.NEVER),
        (204, ErrorCode.UNAVAILABLE, Repeat.NEVER),
    ],
)
def test_a_status_without_words_of_ours_still_has_a_code(status: int, code: ErrorCode, repeat: Repeat) -> None:
    failure = refusal(HttpReply(status, {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, b"<html>"), ADDRESS)
    assert (failure.error.code, failure.repeat, failure.error.retry_after) == (code, repeat, None)
    assert ADDRESS in failure.error.message


@pytest.mark.parametrize("pushback", ["-1", "soon", ""])
def test_pushback_that_is_no_time_asks_not_to_come_back(pushback: str) -> None:
    metadata = {"x-request-id": "1", "grpc-retry-pushback-ms": pushback}
    failure = rpc_refusal(RpcReply(status="UNAVAILABLE", details="words", metadata=metadata), ADDRESS, 1)
    assert failure.repeat is (Repeat.NEVER if pushback else Repeat.SAFE)


@pytest.mark.parametrize(
    ("status", "details", "kind", "repeat"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", Unavailable, Repeat.SAFE),
        ("UNAVAILABLE", "Socket closed", Unavailable, Repeat.IF_HARMLESS),
        ("UNKNOWN", "Stream removed", Unavailable, Repeat.NEVER),
        ("ABORTED", "", Unavailable, Repeat.NEVER),
        ("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (2 vs. 1)", PayloadTooLarge, Repeat.NEVER),
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (2 vs. 1)", PayloadTooLarge, Repeat.NEVER),
    ],
)
def test_what_the_library_says_is_told_from_what_a_server_says(
    status: str, details: str, kind: type, repeat: Repeat
) -> None:
    failure = rpc_refusal(RpcReply(status=status, details=details), ADDRESS, 1)
    assert (type(failure.error), failure.repeat) == (kind, repeat)
    assert ADDRESS in failure.error.message


def test_a_message_without_end_is_cut() -> None:
    assert len(error_of(ErrorCode.INTERNAL, "x" * 10**6).message) < 10_000


def test_confidence_is_the_probability_of_the_prediction_where_both_belong_together() -> None:
    assert confidence_of(["b", None, "z"], ["a", "b"], [[0.25, 0.75], None, [0.5, 0.5]]) == (0.75, None, None)
    assert confidence_of(["a"], ["a", "b"], [[1.0]]) == (None,)
    assert confidence_of([[1]], [], [[1.0]]) == (None,)
