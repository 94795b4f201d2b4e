"""A share that is awaited: its outcome, and what becomes of one that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from tests.batching.world import Meters
from tests.line import run

from keelway.batching.awaited import awaited
from keelway.batching.turn import TurnBatcher
from keelway.types import Array


def sums(inputs: Mapping[str, Array], wanted: Sequence[str]) -> Sequence[Array]:
    if np.isnan(inputs["x"]).any():
        raise ValueError("no sum of that")
    if (inputs["x"] < 0).any():
        raise StopIteration
    return [inputs["x"].sum(axis=1)]


def share(batcher: TurnBatcher, *rows: float) -> asyncio.Future[Sequence[Array]]:
    return awaited(batcher.submit, {"x": np.array(rows).reshape(-1, 1)}, len(rows), ("sum",))


def test_each_gets_its_own_rows_of_a_run_that_is_told_once() -> None:
    # T1 T3
    async def scenario() -> None:
        meters = Meters()
        batcher = TurnBatcher(sums, 8, meters)
        outputs = await asyncio.gather(*(share(batcher, *rows) for rows in ((1, 2), (3,), (4, 5, 6))))
        assert [array.tolist() for (array,) in outputs] == [[1, 2], [3], [4, 5, 6]]
        assert meters.rows == [6]

    run(scenario())


def test_only_the_guilty_hear_what_the_model_raised() -> None:
    # T3
    async def scenario() -> None:
        batcher = TurnBatcher(sums, 8, Meters())
        outcomes = await asyncio.gather(
            *(share(batcher, row) for row in (1.0, np.nan, -1.0, 2.0)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [list, ValueError, RuntimeError, list]

    run(scenario())


def test_one_that_nobody_waits_for_is_not_run() -> None:
    # R5
    async def scenario() -> None:
        meters = Meters()
        batcher = TurnBatcher(sums, 8, meters)
        left, stays = share(batcher, 1), share(batcher, 2)
        left.cancel()
        assert [array.tolist() for array in await stays] == [[2]]
        assert meters.rows == [1]
        await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await left

    run(scenario())
