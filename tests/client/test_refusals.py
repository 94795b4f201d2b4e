"""Every code of a server becomes an error of its class."""

from __future__ import annotations

from keelway.client.refusals import CLASSES, refusal
from keelway.errors import ErrorCode


def test_every_code_has_a_class_of_that_code() -> None:
    assert {code: kind.code for code, kind in CLASSES.items()} == {code: code for code in ErrorCode}


def test_a_refusal_keeps_what_the_server_said() -> None:
    error = refusal(ErrorCode.RESOURCE_EXHAUSTED, "slow down", "age", 1.5)
    assert (error.message, error.field, error.retry_after) == ("slow down", "age", 1.5)
