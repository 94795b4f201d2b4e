"""When a breaker opens, whom it lets through, and when it closes."""

from __future__ import annotations

from keelway.remote.breaker import Breaker
from keelway.testing import FakeClock


def breaker(failures: int = 3) -> tuple[Breaker, FakeClock, list[bool]]:
    clock, turns = FakeClock(), list[bool]()
    return Breaker(failures, 5.0, clock, turns.append), clock, turns


def fail(one: Breaker, times: int) -> None:
    for _ in range(times):
        one.failed()


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    # A2
    one, _, turns = breaker()
    fail(one, 2)
    one.succeeded()
    fail(one, 2)
    assert one.allows()
    one.failed()
    assert not one.allows()
    assert turns == [True]


def test_it_lets_one_try_after_each_pause_and_no_other() -> None:
    # A2
    one, clock, _ = breaker()
    fail(one, 3)
    clock.advance(4.9)
    assert not one.allows()
    clock.advance(0.1)
    assert [one.allows() for _ in range(3)] == [True, False, False]
    clock.advance(5.0)
    assert one.allows(), "one that never told how it went must not keep it open for ever"


def test_one_success_closes_it_and_one_failure_does_not_open_it_again() -> None:
    # A2
    one, clock, turns = breaker()
    fail(one, 3)
    clock.advance(5.0)
    assert one.allows()
    one.succeeded()
    assert [one.allows() for _ in range(3)] == [True] * 3
    one.failed()
    assert one.allows()
    assert turns == [True, False]


def test_a_try_that_fails_begins_the_pause_anew_and_is_no_second_opening() -> None:
    # A2
    one, clock, turns = breaker()
    fail(one, 3)
    clock.advance(5.0)
    assert one.allows()
    clock.advance(2.0)
    one.failed()
    clock.advance(4.9)
    assert not one.allows()
    clock.advance(0.1)
    assert one.allows()
    assert turns == [True]


def test_a_try_that_nobody_heard_the_end_of_lets_another_try_at_once() -> None:
    # A2
    one, clock, turns = breaker()
    one.left()
    fail(one, 3)
    clock.advance(5.0)
    assert one.allows()
    one.left()
    assert [one.allows() for _ in range(2)] == [True, False]
    assert turns == [True]
