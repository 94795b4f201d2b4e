"""An answer that is not there yet: told once, to whoever asked, in whatever order things happen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keelway.batching.waiting import Waiting, waiting_for


@pytest.mark.parametrize("asked_first", [True, False])
def test_an_outcome_is_told_once_whoever_comes_first(asked_first: bool) -> None:
    waiting: Waiting[int] = Waiting()
    told: list[Any] = []
    if asked_first:
        waiting.then(told.append)
        assert told == []
    waiting.settle(1)
    if not asked_first:
        waiting.then(told.append)
    waiting.settle(2)
    assert waiting.cancel() is False
    assert (told, waiting.done(), waiting.cancelled()) == ([1], True, False)


def test_who_cancels_leaves_and_is_told_nothing_more() -> None:
    waiting: Waiting[int] = Waiting()
    told: list[Any] = []
    left: list[Any] = []
    waiting.then(told.append)
    waiting.leave = left.append
    assert waiting.cancel() is True
    waiting.settle(1)
    assert (told, left, waiting.cancelled()) == ([None], [waiting], True)


def test_awaited_it_answers_raises_and_is_cancelled_like_a_future() -> None:
    async def scenario() -> None:
        right, wrong, left = Waiting[int](), Waiting[int](), Waiting[int]()
        futures = [waiting.future() for waiting in (right, wrong, left)]
        right.settle(1)
        wrong.settle(ValueError("no"))
        futures[2].cancel()
        assert left.cancelled()  # at once: what is asked of it next must not be run
        assert await futures[0] == 1
        with pytest.raises(ValueError, match="no"):
            await futures[1]
        await asyncio.sleep(0)
        left.settle(3)
        assert left.cancelled()
        settled = Waiting[int]()
        settled.settle(4)
        assert await settled.future() == 4

    asyncio.run(scenario())


def test_that_of_a_task_is_its_result_and_cancels_it() -> None:
    async def scenario() -> None:
        async def answer(value: int) -> int:
            await asyncio.sleep(0.001)
            if value < 0:
                raise ValueError("negative")
            return value

        told: list[Any] = []
        for value in (1, -1):
            waiting_for(asyncio.ensure_future(answer(value))).then(told.append)
        left = asyncio.ensure_future(answer(2))
        waiting = waiting_for(left)
        waiting.cancel()
        alone = asyncio.ensure_future(answer(3))
        waiting_for(alone).then(told.append)
        alone.cancel()
        await asyncio.sleep(0.02)
        assert left.cancelled()
        assert sorted(map(str, told)) == ["1", "None", "negative"]

    asyncio.run(scenario())
