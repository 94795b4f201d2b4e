"""What an error carries. That the drawn tree is the real one is the business of ``test_architecture.py``."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from keelway import errors
from keelway.errors import ErrorCode, KeelwayError, MalformedRequest, RateLimited
from keelway.transports.rest.errors import STATUS

TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KeelwayError)]


def test_an_error_carries_what_its_reader_needs() -> None:
    error = RateLimited("too often", field="age", hint="wait", retry_after=2.5)
    assert (str(error), error.message, error.field) == ("too often", "too often", "age")
    assert (error.hint, error.retry_after) == ("wait", 2.5)
    plain = MalformedRequest("broken")
    assert (plain.field, plain.hint, plain.retry_after) == (None, None, None)


def test_only_what_may_pass_by_itself_is_worth_a_retry() -> None:
    assert {code for code in ErrorCode if code.retryable} == {ErrorCode.RESOURCE_EXHAUSTED, ErrorCode.UNAVAILABLE}


def test_codes_are_the_canonical_words_themselves() -> None:
    for code in ErrorCode:
        assert code == code.name == str(code)


def test_every_code_has_a_status_and_every_status_a_code() -> None:
    # R1 R3
    assert set(STATUS) == set(ErrorCode)
    for status in set(STATUS.values()) - {499}:
        assert 400 <= HTTPStatus(status) < 600


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_reaches_rest_as_its_codes_status(kind: type[KeelwayError]) -> None:
    # R1: what the caller can mend is a 4xx, and only that.
    status = STATUS[kind("text").code]
    mendable = kind.code not in {
        ErrorCode.INTERNAL,
        ErrorCode.DATA_LOSS,
        ErrorCode.UNIMPLEMENTED,
        ErrorCode.UNAVAILABLE,
        ErrorCode.DEADLINE_EXCEEDED,
    }
    assert (status < 500) == mendable
