"""When a call is tried again, decided by hand: no clock, no sleep, no server. # G0"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.client.attempts import Call, Pause, Send, attempts
from keelway.client.retries import Failure, Repeat, RetryBudget, RetryPolicy
from keelway.errors import DeadlineExceeded, KeelwayError, RateLimited, Unavailable
from keelway.testing import FakeClock

BUSY = Failure(Unavailable("busy"), Repeat.SAFE)
BROKEN = Failure(Unavailable("broken"), Repeat.IF_HARMLESS)
FINAL = Failure(KeelwayError("no"))
ADDRESS = "http://server"


def test_pauses_grow_twofold_to_the_longest_and_are_drawn_from_all_of_it() -> None:
    policy = RetryPolicy(retries=9, first_pause=0.1, longest_pause=0.5)
    assert [policy.pause(BUSY, attempt, 60.0, 1.0) for attempt in range(1, 6)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert [policy.pause(BUSY, attempt, 60.0, 0.0) for attempt in range(1, 6)] == [0.0] * 5


def test_what_the_server_asks_for_is_waited_in_full() -> None:
    limited = Failure(RateLimited("no", retry_after=3.0), Repeat.SAFE)
    assert RetryPolicy(first_pause=0.1).pause(limited, 1, 60.0, 0.5) == pytest.approx(3.05)
    assert RetryPolicy().pause(limited, 1, 3.0, 0.0) is None


def test_only_what_is_safe_is_tried_again() -> None:
    assert RetryPolicy().pause(BROKEN, 1, 60.0, 0.0) == 0.0
    assert RetryPolicy(resend=False).pause(BROKEN, 1, 60.0, 0.0) is None
    assert RetryPolicy(resend=False).pause(BUSY, 1, 60.0, 0.0) == 0.0
    assert RetryPolicy().pause(FINAL, 1, 60.0, 0.0) is None
    assert RetryPolicy(retries=1).pause(BUSY, 2, 60.0, 0.0) is None


@given(
    attempt=st.integers(1, 10_000),
    left=st.floats(0.0, 1e6),
    draw=st.floats(0.0, 1.0),
    wait=st.none() | st.floats(0.0, 1e6),
)
def test_a_pause_never_reaches_the_deadline(attempt: int, left: float, draw: float, wait: float | None) -> None:
    failure = Failure(Unavailable("busy", retry_after=wait), Repeat.SAFE)
    pause = RetryPolicy(retries=10_000).pause(failure, attempt, left, draw)
    assert pause is None or (wait or 0.0) <= pause < left


def test_the_budget_ends_after_half_of_it_and_comes_back_with_successes() -> None:
    budget = RetryBudget(capacity=4.0, ratio=0.5)
    budget.failed()
    assert budget.allows
    budget.failed()
    assert not budget.allows
    budget.succeeded()
    assert budget.allows
    for _ in range(9):
        budget.failed()
    for _ in range(4):
        budget.succeeded()
    assert not budget.allows
    budget.succeeded()
    assert budget.allows


class Played:
    """A call played to its end on a clock moved by hand: each reply takes a second. ``steps`` is what it asked for."""

    def __init__(self, *replies: Any, timeout: float = 10.0, unreachable: Any = None, **policy: Any) -> None:
        self.steps: list[Send | Pause] = []
        self.budget = RetryBudget()
        clock = FakeClock()
        call: Call[Any] = Call("asked", lambda reply: reply)
        if unreachable is not None:
            call = Call("asked", lambda reply: reply, unreachable)
        running = attempts(call, ADDRESS, timeout, RetryPolicy(**policy), self.budget, clock, lambda: 1.0)
        left: Sequence[Any] = replies
        self.result: Any = None
        reply: Any = None
        try:
            while True:
                step = running.send(reply)
                self.steps.append(step)
                if isinstance(step, Send):
                    reply, *left = left
                    clock.advance(1.0)
                else:
                    reply = None
                    clock.advance(step.seconds)
        except StopIteration as end:
            self.result = end.value
        except KeelwayError as error:
            self.result = error


def test_each_attempt_gets_what_the_ones_before_it_left() -> None:
    played = Played(BUSY, BROKEN, "answer", first_pause=0.5)
    assert played.result == "answer"
    assert played.steps == [Send("asked", 10.0), Pause(0.5), Send("asked", 8.5), Pause(1.0), Send("asked", 6.5)]


def test_the_last_error_is_the_callers_once_nothing_more_can_be_tried() -> None:
    assert Played(BUSY, BROKEN, BUSY).result is BUSY.error
    assert Played(BUSY, FINAL).result is FINAL.error
    assert Played(BUSY, timeout=1.01).result is BUSY.error


def test_a_deadline_that_passes_in_a_pause_is_a_deadline_exceeded() -> None:
    class Late(FakeClock):
        """Sleeps take longer than they are told."""

        def advance(self, seconds: float) -> None:
            super().advance(100.0)

    clock = Late()
    running = attempts(Call("asked", lambda it: it), ADDRESS, 10.0, RetryPolicy(), RetryBudget(), clock, lambda: 0.0)
    next(running)
    assert isinstance(running.send(BUSY), Pause)
    clock.advance(0.0)
    with pytest.raises(DeadlineExceeded, match=f"{ADDRESS} did not answer in time"):
        running.send(None)


def test_a_question_that_an_unreachable_server_answers_is_asked_once() -> None:
    played = Played(BUSY, unreachable=False)
    assert played.result is False
    assert len(played.steps) == 1
    assert Played(FINAL, unreachable=False).result is FINAL.error


def test_only_what_may_be_retried_costs_budget() -> None:
    for _ in range(30):
        assert Played(FINAL).budget.allows
    played = Played(*[BUSY] * 40, retries=40, timeout=1000.0)
    assert played.result is BUSY.error
    assert len([step for step in played.steps if isinstance(step, Send)]) == 10
