"""The event loop stays awake a moment behind an answer, as long as that pays."""

from __future__ import annotations

import asyncio

from keelway.clock import SystemClock
from keelway.edge.polling import BusyPoll
from keelway.testing import FakeClock

SPAN_US = 100.0


class Loop:
    """Turns of an event loop that has nothing to do, and takes ``step`` seconds for each."""

    def __init__(self, microseconds: float = SPAN_US) -> None:
        self.clock = FakeClock()
        self.poll = BusyPoll(microseconds, self.clock)
        self.soon: list[object] = []

    async def turns(self, count: int, step: float) -> int:
        """How many of ``count`` turns the loop was kept awake in."""
        awake = 0
        for _ in range(count):
            awake += bool(ready())
            self.clock.advance(step)
            await asyncio.sleep(0)
        return awake


def ready() -> int:
    """Callbacks that keep the running loop from sleeping."""
    return len(asyncio.get_running_loop()._ready)  # type: ignore[attr-defined]


def test_the_loop_is_awake_behind_an_answer_and_for_no_longer_than_was_said() -> None:
    async def scene() -> int:
        loop = Loop()
        loop.poll.answered()
        return await loop.turns(30, 10e-6)

    assert asyncio.run(scene()) == 10


def test_it_sleeps_at_once_where_that_was_chosen() -> None:
    async def scene() -> int:
        loop = Loop(0)
        loop.poll.answered()
        return await loop.turns(30, 10e-6)

    assert asyncio.run(scene()) == 0


def test_a_request_that_comes_meanwhile_keeps_it_awake_anew() -> None:
    async def scene() -> int:
        loop = Loop()
        loop.poll.answered()
        awake = await loop.turns(8, 10e-6)
        loop.poll.answered()
        return awake + await loop.turns(30, 10e-6)

    assert asyncio.run(scene()) == 18


def tries(answers: int, *, every: float) -> list[bool]:
    """Whether it stayed awake behind each of ``answers``, one ``every`` so many seconds."""

    async def scene() -> list[bool]:
        loop = Loop()
        found = []
        for _ in range(answers):
            loop.poll.answered()
            found.append(ready() > 0)
            await loop.turns(int(every / 20e-6), 20e-6)
        return found

    return asyncio.run(scene())


def test_answers_of_callers_who_come_seldom_are_not_waited_behind() -> None:
    found = tries(3000, every=200e-6)
    assert all(found[:4])
    assert sum(found) < 20
    assert any(found[1000:]), "it is tried again now and then"


def test_answers_of_a_caller_who_comes_at_once_are_always_waited_behind() -> None:
    assert all(tries(500, every=60e-6))


def test_an_event_loop_without_requests_sleeps() -> None:
    async def scene() -> None:
        BusyPoll(SPAN_US, SystemClock()).answered()
        await asyncio.sleep(0.05)
        assert not ready()

    asyncio.run(scene())
