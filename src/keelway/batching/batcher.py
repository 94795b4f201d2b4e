"""The queue of a model that runs in worker threads: a free slot takes all that is waiting and fits, at once. A full run
is chosen while the slots are still busy.

Nobody waits for a batch to fill unless a delay is asked for: a lone request starts when it comes. What shares a run,
and who is refused because there is no time, is decided in ``policy.py``; here is the state. Everything but ``_work`` is
on the event loop. One batcher for each served version.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import chain
from typing import Any, Protocol

import msgspec
import numpy as np

from keelway.batching.curve import Curve
from keelway.batching.policy import (
    Line,
    Outcome,
    Pace,
    Pending,
    Share,
    answered_in,
    compose,
    hold_for,
    kind_of,
    too_late,
)
from keelway.batching.together import Part, Run, run_together
from keelway.clock import Clock
from keelway.errors import DeadlineExceeded, Overloaded
from keelway.ports import BatchMeters
from keelway.types import Array, Priority

#: How fast the factor between measured and real run times follows, and how far it may go.
_FOLLOW, _SLOWEST, _FASTEST = 0.2, 20.0, 0.5


class Loop(Protocol):
    """What is needed of an event loop."""

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any: ...

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> Any: ...


class _Request(Pending):
    """A share on its way through queue and runs. ``runs`` are those it is in now; ``made`` the outputs of its parts."""

    kind: tuple[object, ...] = ()
    runs: int = 0
    made: list[tuple[int, Sequence[Array]]] = msgspec.field(default_factory=list)
    failed: Exception | None = None
    settled: bool = False
    started: bool = False
    timer: Any = None
    counted: tuple[int, float] = (0, 0.0)


class _Running(msgspec.Struct, eq=False):
    parts: list[tuple[_Request, Part]]
    rows: int
    #: When it began; of a run that is next in line for a slot, when it should.
    began: float
    expected: float


_Queue = OrderedDict[int, _Request]


class SlotBatcher:
    """``executor`` has ``slots`` worker threads and is used by nobody else. With ``max_rows`` 0 every request is a run
    of its own, and nothing of it is taken apart; otherwise a run has at most so many rows. ``curve`` is the measured
    one, ``None`` where the model could not be measured. At most ``max_queue_rows`` rows wait; ``max_delay`` is in
    seconds."""

    checks = False

    def __init__(
        self,
        run: Run,
        executor: Executor,
        clock: Clock,
        meters: BatchMeters,
        *,
        slots: int = 1,
        max_rows: int = 0,
        curve: Curve | None = None,
        max_queue_rows: int = 8192,
        max_delay: float = 0.0,
        loop: Callable[[], Loop] = asyncio.get_running_loop,
    ) -> None:
        self._run = run
        self._executor = executor
        self._clock = clock
        self._meters = meters
        self._slots = slots
        self._max_queue_rows = max_queue_rows
        self._max_delay = max_delay
        self._loop = loop
        self._measured = curve is not None
        self._pace = Pace(curve or Curve(((1, 0.0),)), 1.0, max_rows)
        self._queues: tuple[dict[tuple[object, ...], _Queue], ...] = tuple({} for _ in Priority)
        self._rows = [0 for _ in Priority]
        self._cost = [0.0 for _ in Priority]
        self._running: list[_Running] = []
        self._number = 0
        self._held: Any = None

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue. A request larger than a run counts with one run: it lets others pass between its runs."""
        return sum(self._rows)

    def declines(self, rows: int) -> bool:
        return False

    def submit(self, share: Share) -> Callable[[Any], None]:
        """Run ``share`` in a free slot, now if there is one. ``Overloaded`` if it can be foreseen that it would be
        late, or if too much is waiting.

        Returns what is to be called when the caller leaves (with anything: a future's callback)."""
        now = self._clock.monotonic()
        rows = self._in_queue(share.rows)
        self._refuse_if_late(share, now)
        self._make_room(share, rows)
        self._number += 1
        request = _Request(share, self._number, now, share.rows, kind_of(share))
        queue = self._queues[share.priority].setdefault(request.kind, OrderedDict())
        queue[request.number] = request
        self._count(request, 1)
        if share.deadline < math.inf:
            request.timer = self._loop().call_later(max(0.0, share.deadline - now), self._expire, request)
        self._start_what_can(now)

        def leave(_: Any) -> None:
            self._settle(request, ())

        return leave

    # Who comes in

    def _refuse_if_late(self, share: Share, now: float) -> None:
        if share.deadline == math.inf:
            return
        line = self._line(share.priority, now)
        missed = too_late(line, self._pace, share.rows, share.deadline - now)
        if missed:
            self._meters.shed("late")
            raise Overloaded("the server is too busy to answer in the time given; try again", retry_after=missed)

    def _make_room(self, share: Share, rows: int) -> None:
        """Refuse a request that finds the queue full; an interactive one takes the place of the last batch requests."""
        if not self.waiting_rows or self.waiting_rows + rows <= self._max_queue_rows:
            return
        last = [] if share.priority is Priority.BATCH else list(self._waiting(Priority.BATCH))
        last.sort(key=lambda request: -request.number)
        if self.waiting_rows - self._rows[Priority.BATCH] + rows > self._max_queue_rows:
            last = []
        for request in last:
            if self.waiting_rows + rows <= self._max_queue_rows:
                return
            self._meters.shed("displaced")
            self._settle(request, self._overloaded(Priority.BATCH))
        if self.waiting_rows and self.waiting_rows + rows > self._max_queue_rows:
            self._meters.shed("queue_full")
            raise self._overloaded(share.priority)

    def _overloaded(self, priority: Priority) -> Overloaded:
        seconds = answered_in(self._line(priority, self._clock.monotonic()), self._pace, 1)
        return Overloaded("as much is waiting for this model as may; try again", retry_after=max(seconds, 0.1))

    def _line(self, priority: Priority, now: float) -> Line:
        """What is ahead of a request of ``priority``: those of its own class, and of the classes before it."""
        slots = self._slots_for(priority)
        until_free = 0.0 if len(self._running) < slots else self._until_free(now)
        rows, cost = sum(self._rows[: priority + 1]), sum(self._cost[: priority + 1])
        return Line(until_free, cost * self._pace.factor, rows, slots)

    def _until_free(self, now: float) -> float:
        """Seconds until a slot is free that is not promised to the run that is next in line for one."""
        # A run that takes longer than it should ends any moment, but it has not ended.
        ends = sorted(max(run.began + run.expected - now, 1e-6) for run in self._running[: self._slots])
        for run in self._running[self._slots :]:
            ends[0] += run.expected
            ends.sort()
        return ends[0]

    def _slots_for(self, priority: Priority) -> int:
        """Batch requests leave the last slot to who may come."""
        return max(1, self._slots - 1) if priority is Priority.BATCH else self._slots

    # What runs next

    def _start_what_can(self, now: float) -> None:
        """Fill the free slots. Behind full ones, one run more is given to the threads if it is as large as it may be: a
        thread that ends a run goes on with it at once, and does not wait for this loop, which holds the interpreter's
        lock while it reads and writes."""
        while True:
            busy = len(self._running) >= self._slots
            kind = self._next_kind()
            if kind is None or (not self._may_be_next(kind) if busy else self._holds(kind, now)):
                return
            begins = now + self._until_free(now) if busy else now
            pressed = len(self._running) + 1 >= self._slots and self.waiting_rows > (self._pace.max_rows or 1)
            parts, late = compose(self._in_line(kind), self._pace, begins, pressed=pressed)
            for request in late:
                self._meters.shed("late")
                self._settle(request, Overloaded("there is no time left to answer; try again", retry_after=0.1))
            self._start(parts, now, begins)

    def _may_be_next(self, kind: tuple[object, ...]) -> bool:
        """Whether a run of ``kind`` may be chosen before a slot is free: nobody who comes later could join it, and none
        is chosen yet. Whoever comes goes before batch requests, and between the runs of a large one."""
        if len(self._running) != self._slots or kind not in self._queues[Priority.INTERACTIVE]:
            return False
        missing = most = self._pace.max_rows or 1
        for request in self._queues[Priority.INTERACTIVE][kind].values():
            missing -= request.left
            if request.left > most > 1:
                return False
            if missing <= 0:
                return True
        return False

    def _next_kind(self) -> tuple[object, ...] | None:
        """The kind whose first interactive request came first; without one, that of the first batch request, if it may
        have a slot."""
        interactive, batch = self._queues
        queues = interactive
        if not interactive:
            if not batch or len(self._running) >= self._slots_for(Priority.BATCH):
                return None
            queues = batch
        return min(queues, key=lambda kind: next(iter(queues[kind])))

    def _in_line(self, kind: tuple[object, ...]) -> Iterator[_Request]:
        """Those that wait and are of ``kind``: interactive ones, and batch requests behind them."""
        return chain(*(queues[kind].values() for queues in self._queues if kind in queues))

    def _holds(self, kind: tuple[object, ...], now: float) -> bool:
        """Whether the slot waits for company; then a timer looks again."""
        if not self._max_delay:
            return False
        waiting = list(self._in_line(kind))
        rows = sum(self._in_queue(request.left) for request in waiting)
        oldest = min(request.since for request in waiting)
        earliest = min(request.share.deadline for request in waiting)
        seconds = hold_for(oldest, rows, earliest, self._pace, self._max_delay, now)
        if seconds > 0 and self._held is None:
            self._held = self._loop().call_later(seconds, self._held_long_enough)
        return seconds > 0

    def _held_long_enough(self) -> None:
        self._held = None
        self._start_what_can(self._clock.monotonic())

    def _start(self, chosen: Sequence[tuple[_Request, int]], now: float, begins: float) -> None:
        parts = []
        for request, rows in chosen:
            self._count(request, -1)
            parts.append((request, Part(request.share, request.share.rows - request.left, rows)))
            request.left -= rows
            request.runs += 1
            if not request.started:
                request.started = True
                self._meters.waited(begins - request.since)
            self._put_back(request)
        rows = sum(part.rows for _, part in parts)
        running = _Running(parts, rows, begins, self._pace.seconds(rows))
        self._running.append(running)
        try:
            self._executor.submit(self._work, running, self._loop())
        except RuntimeError as error:  # the threads are gone
            self._loop().call_soon_threadsafe(self._ended, running, [error] * len(parts), 0)

    def _put_back(self, request: _Request) -> None:
        """Out of the queue, or with what is left of it back: to the front, but behind all others while that is more
        than a run. A large request does not keep small ones waiting until it is done."""
        queue = self._queues[request.share.priority][request.kind]
        if not request.left:
            self._take_out(request)
        elif request.left >= self._pace.max_rows:
            queue.move_to_end(request.number)
            self._number += 1
            queue[self._number] = queue.pop(request.number)
            request.number = self._number
        if request.left:
            self._count(request, 1)

    # In a worker thread

    def _work(self, running: _Running, loop: Loop) -> None:
        """The whole run, in a slot. Whatever happens, the loop hears of it."""
        running.began = now = self._clock.monotonic()
        made: list[Outcome] = [_skipped(request, now) for request, _ in running.parts]
        alive = [place for place, outcome in enumerate(made) if outcome is _TO_RUN]
        parts = [running.parts[place][1] for place in alive]
        try:
            outcomes = run_together(self._run, parts, joined=self._pace.max_rows > 0) if parts else []
        except BaseException as error:  # noqa: BLE001 - what a model answers may be anything
            outcomes = [RuntimeError(f"the run ended with {type(error).__name__}")] * len(parts)
        for place, outcome in zip(alive, outcomes, strict=True):
            made[place] = outcome
        loop.call_soon_threadsafe(self._ended, running, made, sum(part.rows for part in parts))

    # Back on the loop

    def _ended(self, running: _Running, outcomes: Sequence[Outcome], rows: int) -> None:
        now = self._clock.monotonic()
        self._running.remove(running)
        if rows:
            self._meters.ran(rows)
        for (request, part), outcome in zip(running.parts, outcomes, strict=True):
            request.runs -= 1
            if isinstance(outcome, Exception):
                request.failed = request.failed or outcome
                self._drop(request)
            elif not request.settled:
                request.made.append((part.start, outcome))
        if rows == running.rows and not any(isinstance(outcome, Exception) for outcome in outcomes):
            self._learn(rows, now - running.began)
        # First the next run, then the answers to this one: encoding them takes time that the slot need not wait.
        self._start_what_can(now)
        for request, _ in running.parts:
            if request.failed is not None:
                self._settle(request, request.failed)
            elif not request.left and not request.runs and not request.settled:
                self._settle(request, _rejoined(request.made))

    def _learn(self, rows: int, seconds: float) -> None:
        """Follow what runs really take now. Without a measured curve, what the first one took is the curve."""
        curve, factor, max_rows = self._pace
        if not self._measured:
            self._measured = True
            self._pace = Pace(Curve(((rows, max(seconds, 1e-9)),)), 1.0, max_rows)
        else:
            real = seconds / max(curve.seconds(rows), 1e-9)
            follows = factor + _FOLLOW * (real - factor)
            self._pace = Pace(curve, min(max(follows, _FASTEST), _SLOWEST), max_rows)

    def _expire(self, request: _Request) -> None:
        self._settle(request, DeadlineExceeded("the deadline passed before the model answered"))

    def _settle(self, request: _Request, outcome: Outcome) -> None:
        """Tell the caller, once, and forget the request wherever it still waits."""
        if request.settled:
            return
        request.settled = True
        self._drop(request)
        if request.timer is not None:
            request.timer.cancel()
        request.made = []
        request.share.settle(outcome)

    # Accounts

    def _drop(self, request: _Request) -> None:
        if request.left:
            self._count(request, -1)
            request.left = 0
            self._take_out(request)

    def _take_out(self, request: _Request) -> None:
        queues = self._queues[request.share.priority]
        del queues[request.kind][request.number]
        if not queues[request.kind]:
            del queues[request.kind]

    def _count(self, request: _Request, sign: int) -> None:
        priority = request.share.priority
        if sign > 0:
            # Kept for when it is taken off again: what is known of the model may have changed by then.
            request.counted = (self._in_queue(request.left), self._pace.cost(request.left) / self._pace.factor)
        rows, cost = request.counted
        self._rows[priority] += sign * rows
        self._cost[priority] = self._cost[priority] + sign * cost if self._rows[priority] else 0.0

    def _in_queue(self, rows: int) -> int:
        return min(rows, self._pace.max_rows) if self._pace.max_rows else rows

    def _waiting(self, priority: Priority) -> Iterator[_Request]:
        return chain(*(queue.values() for queue in self._queues[priority].values()))


#: Stands for a part that is to be run.
_TO_RUN: Outcome = RuntimeError()


def _skipped(request: _Request, now: float) -> Outcome:
    """Why ``request`` is not run any more."""
    if request.settled or request.share.abandoned():
        return ()
    if request.share.deadline < now:
        return DeadlineExceeded("the deadline passed while the request waited for the model")
    return _TO_RUN


def _rejoined(made: list[tuple[int, Sequence[Array]]]) -> Outcome:
    """The outputs of all parts as one. Parts may have come back in another order than they went."""
    if len(made) == 1:
        return made[0][1]
    made.sort(key=lambda part: part[0])
    try:
        return [np.concatenate(outputs) for outputs in zip(*(outputs for _, outputs in made), strict=True)]
    except ValueError as error:  # outputs of one run do not fit those of another, or the caller has left between
        return error
