"""The course of a call: what is sent when, what is tried again, and when it ends. Nothing here is a network. # G0"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from keelway.client.exchange import Call, Pause, Reply, Send, conduct
from keelway.client.retries import Budget, RetryPolicy
from keelway.errors import (
    DeadlineExceeded,
    ErrorCode,
    InvalidInput,
    KeelwayError,
    ModelFailed,
    Overloaded,
    RateLimited,
    Unavailable,
)
from keelway.testing import FakeClock

CALL: Call[str] = Call("/x", lambda reply: reply.body.decode())
POLICY = RetryPolicy()
YES = Reply(b"yes")
BUSY = Reply(error=Overloaded("busy"))
BROKEN = Reply(error=Unavailable("broke"), broken=True)


class Course:
    """Drives ``conduct`` with the given replies; each takes ``takes`` seconds. Keeps what it was told to do."""

    def __init__(
        self, *replies: Reply, takes: float = 0.0, policy: RetryPolicy = POLICY, budget: Budget | None = None
    ) -> None:
        self.clock = FakeClock()
        self.steps: list[Send | Pause] = []
        self._replies = list(replies)
        self._takes = takes
        self._policy = policy
        self._budget = budget or Budget()

    def run(self, timeout: float = 10.0, call: Call[Any] = CALL) -> Any:
        course = conduct(call, timeout, self._policy, self._budget, self.clock, lambda: 0.5)
        reply: Reply | None = None
        try:
            while True:
                step = course.send(reply)
                self.steps.append(step)
                reply = None
                if isinstance(step, Pause):
                    self.clock.advance(step.seconds)
                else:
                    self.clock.advance(self._takes)
                    reply = self._replies.pop(0)
        except StopIteration as end:
            return end.value

    @property
    def pauses(self) -> Sequence[float]:
        return [step.seconds for step in self.steps if isinstance(step, Pause)]

    @property
    def timeouts(self) -> Sequence[float]:
        return [step.timeout for step in self.steps if isinstance(step, Send)]


def test_an_answer_is_the_end_of_it() -> None:
    course = Course(YES)
    assert course.run() == "yes"
    assert course.steps == [Send(10.0)]


@pytest.mark.parametrize("again", [BUSY, Reply(error=RateLimited("slow down")), BROKEN], ids=["busy", "rate", "broken"])
def test_what_is_safe_is_tried_again_after_a_pause_that_grows(again: Reply) -> None:
    course = Course(again, again, YES)
    assert course.run() == "yes"
    assert course.pauses == [0.025, 0.05]


FINAL = [InvalidInput("no"), ModelFailed("no"), DeadlineExceeded("no")]


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_what_cannot_get_better_is_final(error: KeelwayError) -> None:
    course = Course(Reply(error=error), YES)
    with pytest.raises(type(error)):
        course.run()
    assert course.steps == [Send(10.0)]


def test_no_more_is_tried_than_was_allowed() -> None:
    course = Course(BUSY, BUSY, policy=RetryPolicy(retries=1))
    with pytest.raises(Overloaded):
        course.run()
    assert len(course.timeouts) == 2


def test_calls_whose_connection_broke_can_be_left_out() -> None:
    course = Course(BROKEN, YES, policy=RetryPolicy(broken=False))
    with pytest.raises(Unavailable, match="broke"):
        course.run()
    assert Course(BUSY, YES, policy=RetryPolicy(broken=False)).run() == "yes"


def test_a_server_that_names_a_time_is_given_it() -> None:
    course = Course(Reply(error=Overloaded("busy", retry_after=2.0)), YES)
    assert course.run() == "yes"
    assert course.pauses == [2.025]


def test_one_deadline_holds_for_all_attempts_and_each_is_told_what_is_left() -> None:  # R5
    course = Course(BUSY, BUSY, YES, takes=1.0)
    assert course.run(timeout=10.0) == "yes"
    assert course.timeouts == [10.0, pytest.approx(8.975), pytest.approx(7.925)]


def test_nothing_is_slept_past_the_deadline() -> None:
    course = Course(Reply(error=Overloaded("busy", retry_after=60.0)), YES)
    with pytest.raises(Overloaded):
        course.run(timeout=5.0)
    assert course.pauses == []


def test_without_time_nothing_is_sent() -> None:
    course = Course(YES)
    with pytest.raises(DeadlineExceeded):
        course.run(timeout=0.0)
    assert course.steps == []


def test_an_error_that_is_expected_is_an_answer() -> None:
    call: Call[bool] = Call("/ready", lambda reply: reply.error is None, expected=frozenset({ErrorCode.UNAVAILABLE}))
    assert Course(BUSY).run(call=call) is False


def test_an_outage_is_not_made_worse_by_retries() -> None:
    budget = Budget(10.0)
    attempts = 0
    for _ in range(20):
        course = Course(*[BUSY] * 3, budget=budget)
        with pytest.raises(Overloaded):
            course.run()
        attempts += len(course.timeouts)
    assert 20 < attempts <= 26  # one each, and a handful of retries before the budget was gone


def test_successes_earn_retries_back() -> None:
    budget = Budget(10.0)
    while budget.spend():
        pass
    assert len(Course(BUSY, YES, budget=budget).steps) == 0
    for _ in range(30):
        budget.succeeded()
    assert Course(BUSY, YES, budget=budget).run() == "yes"
