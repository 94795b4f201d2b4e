"""The machine's clock, and the one way a moment is written."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.clock import Clock, SystemClock, rfc3339


def test_the_system_clock_tells_seconds_and_never_goes_back() -> None:
    clock: Clock = SystemClock()
    assert abs(clock.now() - time.time()) < 5
    first = clock.monotonic()
    time.sleep(0.01)
    assert 0.005 < clock.monotonic() - first < 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_769_860_800.25, "2026-01-31T12:00:00.250000Z"),
        (1_709_210_096.999999, "2024-02-29T12:34:56.999999Z"),
    ],
)
def test_a_moment_is_rfc_3339_in_utc_with_microseconds(seconds: float, text: str) -> None:
    # R2
    assert rfc3339(seconds) == text


@given(st.floats(0, 4e9))
def test_every_moment_is_read_back(seconds: float) -> None:
    # R2
    assert datetime.fromisoformat(rfc3339(seconds)) == datetime.fromtimestamp(seconds, UTC)
