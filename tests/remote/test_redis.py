"""Whose fault it is when a question to Redis is not answered: a caller in a hurry, or one who leaves, says nothing of
the service. # A2 W1"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import NoPermissionError
from tests.line import run

from keelway.clock import SystemClock
from keelway.remote.redis import RedisLink
from keelway.testing import FakeClock

#: Seconds that the link gives a question, what a caller in a hurry gives it, and what the service takes in between.
TIMEOUT, HURRY, SLOW = 0.5, 0.005, 0.03


class Service:
    """Answers after ``seconds``, and counts what was asked to the end."""

    def __init__(self, seconds: float = SLOW) -> None:
        self.seconds = seconds
        self.answered = 0

    async def __call__(self) -> str:
        await asyncio.sleep(self.seconds)
        self.answered += 1
        return "answer"


class Link(RedisLink):
    """One that no Redis is needed for, after one failure not asked for ``pause`` seconds."""

    def __init__(self, pause: float = 60.0, clock: FakeClock | None = None) -> None:
        self.seen: Counter[str] = Counter()
        self.turns: list[bool] = []
        super().__init__(
            "redis://127.0.0.1:1/0",
            clock or SystemClock(),
            timeout=TIMEOUT,
            failures=1,
            pause=pause,
            setting="rate_limits.store",
            what="the store",
            noted=lambda _, outcome: self.seen.update([outcome]),
            turned=self.turns.append,
        )


@asynccontextmanager
async def link(clock: FakeClock | None = None) -> AsyncIterator[Link]:
    made = Link(clock=clock)
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("seconds", [HURRY, 0.0, -1.0])
def test_a_caller_in_a_hurry_leaves_without_a_failure_of_the_service(seconds: float) -> None:
    async def scenario() -> None:
        service = Service()
        async with link() as asked:
            for _ in range(5):
                began = asyncio.get_running_loop().time()
                assert await asked.ask("take", service, seconds) is None
                assert asyncio.get_running_loop().time() - began < TIMEOUT
            assert asked.turns == []
            assert await asked.ask("take", service, math.inf) == "answer", "everybody else goes on asking"
            assert asked.seen == {"ok": 6}

    run(scenario())


def test_a_caller_in_a_hurry_gets_what_comes_in_time() -> None:
    async def scenario() -> None:
        async with link() as asked:
            assert await asked.ask("take", Service(0.0), TIMEOUT / 2) == "answer"

    run(scenario())


def test_a_service_that_hangs_is_found_out_although_all_are_in_a_hurry() -> None:
    async def scenario() -> None:
        async with link() as asked:
            assert await asked.ask("take", Service(60.0), HURRY) is None
            await asyncio.sleep(2 * TIMEOUT)
            assert asked.turns == [True]
            assert asked.seen == {"timeout": 1}
            assert await asked.ask("take", Service(0.0)) is None

    run(scenario())


@pytest.mark.parametrize("seconds", [math.inf, HURRY * 4])
def test_a_caller_who_leaves_is_no_failure_of_the_service(seconds: float) -> None:
    async def scenario() -> None:
        async with link() as asked:
            for _ in range(5):
                asking = asyncio.ensure_future(asked.ask("take", Service(), seconds))
                await asyncio.sleep(HURRY)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
            assert asked.turns == []
            assert await asked.ask("take", Service(0.0)) == "answer"

    run(scenario())


def test_who_leaves_while_trying_lets_another_try_at_once() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        async with link(clock) as asked:
            await asked.ask("take", Service(60.0))
            assert asked.turns == [True]
            clock.advance(61.0)
            trying = asyncio.ensure_future(asked.ask("take", Service()))
            await asyncio.sleep(HURRY)
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
            assert await asked.ask("take", Service(0.0)) == "answer"
            assert asked.turns == [True, False]

    run(scenario())


def test_the_log_says_what_kind_of_failure_it_was_and_not_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def forbidden() -> None:
        raise NoPermissionError("user sentinel-4711 may not")

    async def scenario() -> None:
        async with link() as asked:
            assert await asked.ask("take", forbidden) is None

    run(scenario())
    assert "does not answer (NoPermissionError)" in caplog.text
    assert "sentinel" not in caplog.text


def test_closing_leaves_no_question_behind() -> None:
    async def scenario() -> None:
        service = Service()
        async with link() as asked:
            await asked.ask("take", service, HURRY)
        await asyncio.sleep(2 * SLOW)
        assert service.answered == 0

    run(scenario())
