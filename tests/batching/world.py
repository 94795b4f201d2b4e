"""A world with a clock of its own for a batcher: worker threads that take as long as the model says, callers who come
with deadlines and leave, and nothing that waits for real time."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from keelway.batching.batcher import SlotBatcher
from keelway.batching.curve import Curve
from keelway.batching.policy import Outcome, Share
from keelway.errors import Overloaded
from keelway.testing import FakeClock
from keelway.types import Array, Priority

#: A row that begins with it makes the run fail; one that begins with the other makes it lose a row.
GUILTY, SHORT = -1.0, -2.0


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """The loop, the clock and the executor in one."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self._events: list[tuple[float, int, Handle, Callable[..., Any], tuple[Any, ...]]] = []
        self._order = count()
        self.run_ends = 0.0
        #: Seconds after which the loop hears of what a thread has posted.
        self.deaf = 0.0
        self.thread_is_free: Callable[[], None] = lambda: None

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Handle:
        handle = Handle()
        event = (self.clock.monotonic() + max(0.0, delay), next(self._order), handle, callback, args)
        heapq.heappush(self._events, event)
        return handle

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> Handle:
        """A worker thread posts the end of its run, which is as much later as the model took."""
        took, self.run_ends = self.run_ends, 0.0
        # The thread goes on with what was given to it before anybody hears of the end.
        self.call_later(took, self.thread_is_free)
        return self.call_later(took + self.deaf, callback, *args)

    def live(self, until: float = math.inf, after: Callable[[], None] = lambda: None) -> None:
        """Until nothing is to happen any more; ``after`` looks at the world after each event."""
        while self._events and self._events[0][0] <= until:
            when, _, handle, callback, args = heapq.heappop(self._events)
            if handle.cancelled:
                continue
            self.clock.advance(max(0.0, when - self.clock.monotonic()))
            callback(*args)
            after()


class Threads(Executor):
    """So many runs at a time; what one posts arrives when it would have ended."""

    def __init__(self, world: World, slots: int) -> None:
        self._free = slots
        self._given: deque[Callable[[], Any]] = deque()
        world.thread_is_free = self._is_free

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._given.append(partial(fn, *args, **kwargs))
        self._run()
        return Future()

    def _run(self) -> None:
        if self._free and self._given:
            self._free -= 1
            self._given.popleft()()

    def _is_free(self) -> None:
        self._free += 1
        self._run()


class Model:
    """Each row answers twice its first value and one. Runs take what ``curve`` says, times the next of ``factors``."""

    def __init__(self, world: World, curve: Curve, factors: Sequence[float] = (1.0,)) -> None:
        self._world = world
        self._curve = curve
        self._factors = list(factors)
        self.runs: list[Array] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        rows = inputs["x"]
        factor = self._factors[len(self.runs) % len(self._factors)]
        self.runs.append(rows[:, 0].copy())
        self._world.run_ends += self._curve.seconds(len(rows)) * factor
        if (rows[:, 0] == GUILTY).any():
            raise ValueError("a guilty row")
        found = answer(rows)
        return [found[: len(found) - bool((rows[:, 0] == SHORT).any())] for _ in outputs]


def answer(rows: Array) -> Array:
    return rows[:, 0] * 2 + 1


class Meters:
    def __init__(self) -> None:
        self.rows: list[int] = []
        self.waits: list[float] = []
        self.refused: list[str] = []

    def ran(self, rows: int) -> None:
        self.rows.append(rows)

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def shed(self, reason: str) -> None:
        self.refused.append(reason)


class Caller:
    """One request: what it asks and everything it was told, with the time of each."""

    def __init__(self, batcher: SlotBatcher, world: World, rows: Array, **asked: Any) -> None:
        self.rows = rows
        self.came = world.clock.monotonic()
        self.told: list[Outcome] = []
        self.at = math.inf
        self.left = False
        self.refused: Overloaded | None = None
        self._world = world
        self.priority = asked.get("priority", Priority.INTERACTIVE)
        self.deadline = asked.get("deadline", math.inf)
        self.share = Share(
            {"x": rows},
            len(rows),
            asked.get("wanted", ("y",)),
            self._hear,
            lambda: self.left,
            self.deadline,
            self.priority,
        )
        try:
            self._leave = batcher.submit(self.share)
        except Overloaded as error:
            self.refused = error

    def _hear(self, outcome: Outcome) -> None:
        self.told.append(outcome)
        self.at = self._world.clock.monotonic()

    def leave(self) -> None:
        if self.refused is None and not self.told:
            self.left = True
            self._leave(None)

    @property
    def answered(self) -> bool:
        return len(self.told) == 1 and not isinstance(self.told[0], Exception) and len(self.told[0]) > 0

    def seconds(self) -> float:
        return self.at - self.came


def some_rows(*values: float, width: int = 2) -> Array:
    return np.array([[value, *[0.0] * (width - 1)] for value in values])


LINEAR = Curve(((1, 0.0022), (2, 0.0024), (4, 0.0028), (8, 0.0036), (16, 0.0052), (32, 0.0084)))


def batcher_of(world: World, model: Model, meters: Meters | None = None, **options: Any) -> SlotBatcher:
    given: dict[str, Any] = {"slots": 1, "max_rows": 32, "curve": LINEAR, **options}
    return SlotBatcher(
        model.run, Threads(world, given["slots"]), world.clock, meters or Meters(), loop=lambda: world, **given
    )
