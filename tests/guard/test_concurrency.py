"""The limit that follows how long answers take. # T2"""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from keelway.guard.admission import Admission
from keelway.guard.concurrency import FLOOR, Window, is_slow, next_limit
from keelway.types import Priority


def test_an_answer_is_slow_for_its_caller_and_for_its_model() -> None:
    assert is_slow(0.045, 0.05, 0.002)
    assert not is_slow(0.045, 60.0, 0.002)  # the caller had time
    assert not is_slow(0.0025, 0.001, 0.002)  # the model cannot do better


def test_the_limit_shrinks_from_what_was_really_at_once_and_grows_again() -> None:
    assert next_limit(1024, Window(100, 50, 200), 1024) == 180
    assert next_limit(180, Window(100, 50, 180), 1024) == 162
    assert next_limit(180, Window(100, 5, 180), 1024) == 193
    assert next_limit(1020, Window(100, 0, 10), 1024) == 1024


def test_few_at_once_are_not_the_reason_of_their_slowness() -> None:
    assert next_limit(1024, Window(100, 100, FLOOR), 1024) == 1024


@given(st.integers(1, 2000), st.integers(0, 500), st.floats(0, 1), st.integers(0, 3000), st.integers(1, 2000))
def test_the_limit_stays_between_floor_and_cap(limit: int, answered: int, slow: float, peak: int, cap: int) -> None:
    limit = min(max(limit, min(FLOOR, cap)), cap)
    found = next_limit(limit, Window(answered, int(answered * slow), peak), cap)
    assert min(FLOOR, cap) <= found <= cap


def simulate(capacity: float, allowed: float, callers: int, adaptive: bool, seconds: float = 20.0) -> Admission:
    """Callers who come as soon as they may, on a server that answers ``capacity`` requests a second in turn."""
    admission = Admission(1024, adaptive=adaptive)
    now = 0.0
    admission.answered("m", 1 / capacity, allowed, now)  # it has been seen on a quiet day
    while now < seconds:
        while admission.in_flight < callers and admission.try_enter():
            pass
        now += 1 / capacity
        latency = admission.in_flight / capacity
        admission.leave()
        admission.answered("m", latency, allowed, now)
    return admission


def test_under_load_the_limit_settles_where_answers_come_in_time() -> None:
    # 1000 a second and 0.1 s: more than a hundred at once cannot all be in time.
    assert 60 <= simulate(1000, 0.1, 1000, adaptive=True).limit <= 100
    assert simulate(1000, 0.1, 1000, adaptive=False).limit == 1024


def test_callers_with_time_are_not_refused() -> None:
    assert simulate(1000, 60.0, 1000, adaptive=True).limit == 1024


def test_a_model_that_has_become_slower_for_good_is_forgiven_in_time() -> None:
    admission = Admission(1024, adaptive=True)
    admission.answered("m", 0.002, 0.01, 0.0)
    for _ in range(64):
        admission.try_enter()
    now = 0.0
    while admission.limit == 1024:
        now += 0.01
        admission.answered("m", 0.012, 0.01, now)
    while admission.limit < 1024:
        now += 0.05
        admission.answered("m", 0.012, 0.01, now)
        assert now < 3600
    assert math.isfinite(now)


def test_batch_requests_leave_a_quarter_to_interactive_ones() -> None:
    admission = Admission(8)
    assert [admission.try_enter(Priority.BATCH) for _ in range(8)] == [True] * 6 + [False] * 2
    assert [admission.try_enter() for _ in range(3)] == [True, True, False]
