"""Errors as gRPC statuses: every code has its own, and what goes with it. # G2"""

from __future__ import annotations

import grpc
import pytest

from keelway.errors import ErrorCode, InvalidInput, Overloaded
from keelway.transports.grpc.errors import STATUS, trailing_metadata


def test_every_code_is_the_status_of_the_same_name() -> None:
    assert {code: status.name for code, status in STATUS.items()} == {code: code.name for code in ErrorCode}
    assert grpc.StatusCode.OK not in STATUS.values()


def test_the_request_and_the_field_are_named() -> None:
    assert trailing_metadata(InvalidInput("no", field="age"), "r-1") == (
        ("x-request-id", "r-1"),
        ("keelway-error-field", "age"),
    )


@pytest.mark.parametrize("field", ["größe", "line\nend", "\x00"])
def test_a_field_that_metadata_cannot_carry_is_left_out(field: str) -> None:
    assert trailing_metadata(InvalidInput("no", field=field), "r-1") == (("x-request-id", "r-1"),)


def test_when_to_try_again_is_said_in_milliseconds() -> None:
    assert ("grpc-retry-pushback-ms", "1500") in trailing_metadata(Overloaded("busy", retry_after=1.4996), "r")
