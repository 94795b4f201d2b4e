"""The batcher against random callers: whoever comes with whatever, each is told once, and what it would be told alone.

# T1 T2 T3
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.batching.world import GUILTY, LINEAR, SHORT, Caller, Meters, Model, World, answer, batcher_of, some_rows

from keelway.batching.batcher import SlotBatcher
from keelway.batching.curve import Curve
from keelway.errors import DeadlineExceeded, ModelFailed, Overloaded
from keelway.types import Priority


class Coming(NamedTuple):
    """A request that comes ``gap`` seconds after the one before it."""

    gap: float
    rows: int
    bad: float
    width: int
    wanted: tuple[str, ...]
    allowed: float
    leaves_after: float
    priority: Priority


REQUESTS = st.builds(
    Coming,
    gap=st.sampled_from([0.0, 0.0, 0.0, 0.0005, 0.002, 0.02]),
    rows=st.sampled_from([1, 1, 1, 2, 3, 7, 20]),
    bad=st.sampled_from([0.0, 0.0, 0.0, 0.0, GUILTY, SHORT]),
    width=st.sampled_from([2, 2, 2, 3]),
    wanted=st.sampled_from([("y",), ("y",), ("y", "z")]),
    allowed=st.sampled_from([math.inf, math.inf, 1.0, 0.03, 0.01, 0.003, 0.0]),
    leaves_after=st.sampled_from([math.inf, math.inf, math.inf, 0.0, 0.001, 0.005]),
    priority=st.sampled_from([Priority.INTERACTIVE, Priority.INTERACTIVE, Priority.BATCH]),
)
CURVES = (LINEAR, Curve(((1, 0.001), (8, 0.001))), Curve(((1, 0.004), (8, 0.03))), None)


def rows_of(coming: Coming, number: int) -> list[float]:
    """Values that nobody else has; a bad row somewhere in the middle."""
    values = [1000.0 * number + place for place in range(coming.rows)]
    if coming.bad:
        values[coming.rows // 2] = coming.bad
    return values


def check_work_conserving(batcher: SlotBatcher, slots: int) -> None:
    """No slot is free while somebody waits who may have it."""
    free = slots - len(batcher._running)
    interactive, batch = (batcher._rows[priority] for priority in Priority)
    assert not (free > 0 and interactive)
    assert not (free > (1 if slots > 1 else 0) and batch)


@settings(max_examples=300)
@given(
    coming=st.lists(REQUESTS, min_size=1, max_size=25),
    slots=st.integers(1, 3),
    max_rows=st.sampled_from([0, 1, 2, 4, 8, 32]),
    curve=st.sampled_from(CURVES),
    factors=st.lists(st.sampled_from([0.2, 1.0, 1.0, 5.0]), min_size=1, max_size=4),
    max_queue_rows=st.sampled_from([1, 6, 8192]),
    max_delay=st.sampled_from([0.0, 0.0, 0.004]),
)
def test_every_caller_is_told_once_and_what_it_would_be_told_alone(
    coming: list[Coming],
    slots: int,
    max_rows: int,
    curve: Curve | None,
    factors: list[float],
    max_queue_rows: int,
    max_delay: float,
) -> None:
    world, meters = World(), Meters()
    model = Model(world, curve or LINEAR, factors)
    batcher = batcher_of(
        world,
        model,
        meters,
        slots=slots,
        max_rows=max_rows,
        curve=curve,
        max_queue_rows=max_queue_rows,
        max_delay=max_delay,
    )
    callers: list[tuple[Coming, Caller]] = []

    def arrive(place: int) -> None:
        asked = coming[place]
        rows = some_rows(*rows_of(asked, place + 1), width=asked.width)
        deadline = world.clock.monotonic() + asked.allowed
        caller = Caller(batcher, world, rows, wanted=asked.wanted, deadline=deadline, priority=asked.priority)
        callers.append((asked, caller))
        if asked.leaves_after < math.inf:
            world.call_later(asked.leaves_after, caller.leave)
        if place + 1 < len(coming):
            world.call_later(coming[place + 1].gap, arrive, place + 1)

    def look() -> None:
        assert len(batcher._running) <= slots + 1
        if not max_delay:
            check_work_conserving(batcher, slots)

    world.call_later(coming[0].gap, arrive, 0)
    world.live(after=look)

    assert len(callers) == len(coming)
    for asked, caller in callers:
        check_told(asked, caller, meters)
    if max_rows:
        assert all(len(run) <= max_rows for run in model.runs)
    check_nothing_is_left(batcher)


def check_told(asked: Coming, caller: Caller, meters: Meters) -> None:
    if caller.refused is not None:
        assert caller.told == []
        assert meters.refused
        return
    (told,) = caller.told
    if not isinstance(told, Exception):
        if caller.left and not told:
            return
        assert not asked.bad or (asked.bad == SHORT and len(told[0]) < asked.rows)
        for output in told:
            assert asked.bad or output.tolist() == answer(caller.rows).tolist()
        assert len(told) == len(asked.wanted)
    elif isinstance(told, ValueError):
        assert asked.bad == GUILTY
    elif isinstance(told, ModelFailed):
        assert asked.bad == SHORT
    elif isinstance(told, DeadlineExceeded):
        assert caller.at >= caller.deadline - 1e-9
    else:
        assert isinstance(told, Overloaded)
        assert caller.deadline < math.inf or asked.priority is Priority.BATCH


def check_nothing_is_left(batcher: SlotBatcher) -> None:
    assert batcher.waiting_rows == 0
    assert batcher._running == []
    assert all(not queues for queues in batcher._queues)
    assert batcher._cost == pytest.approx([0.0 for _ in Priority])
