"""One table from error code to status, complete, and body forms that say what a caller may know."""

from __future__ import annotations

from http import HTTPStatus

import orjson
import pytest

from keelway.errors import ErrorCode, InvalidInput, KeelwayError, Overloaded, Unauthenticated
from keelway.transports.rest.errors import STATUS, HttpRefusal, error_reply, mlflow_error, phrase, problem


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_has_a_status_with_a_name(code: ErrorCode) -> None:
    assert STATUS[code] >= 400
    assert phrase(STATUS[code])


def test_a_retryable_code_has_a_status_that_says_so() -> None:
    retryable = {STATUS[code] for code in ErrorCode if code.retryable}
    assert retryable == {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


def test_retry_after_is_in_whole_seconds_and_never_0() -> None:
    _, headers, _ = error_reply(Overloaded("full", retry_after=0.2), problem, "r1")
    assert dict(headers)[b"retry-after"] == b"1"


def test_401_says_how_to_authenticate() -> None:  # U1
    error = Unauthenticated("no key")
    status, headers, _ = error_reply(error, problem, "r1")
    assert (status, dict(headers)[b"www-authenticate"]) == (401, b'Bearer realm="keelway"')
    error.presented = True
    _, headers, _ = error_reply(error, problem, "r1")
    assert dict(headers)[b"www-authenticate"] == b'Bearer realm="keelway", error="invalid_token"'


def test_a_problem_names_the_field_and_the_code() -> None:
    _, headers, body = error_reply(InvalidInput("'age' must be a number", field="age"), problem, "r1")
    assert orjson.loads(body) == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "'age' must be a number",
        "request_id": "r1",
        "code": "INVALID_ARGUMENT",
        "field": "age",
    }
    assert dict(headers) == {
        b"content-type": b"application/problem+json",
        b"content-length": b"%d" % len(body),
        b"x-request-id": b"r1",
    }


def test_a_hint_is_for_the_operator_and_stays_here() -> None:
    error = KeelwayError("the model could not answer", hint="/srv/secret")
    for form in (problem, mlflow_error):
        assert b"secret" not in error_reply(error, form, "r1")[2]


def test_a_refusal_of_http_keeps_its_headers() -> None:
    refusal = HttpRefusal(405, "inference takes POST", ((b"allow", b"POST"),))
    status, headers, _ = error_reply(refusal, problem, "r1")
    assert (status, headers[0]) == (405, (b"allow", b"POST"))
