"""Which requests share a run, how many rows it has, and who is told at once that there is no time. Pure: nothing is run
here, and nothing waits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from keelway.batching.curve import Curve
from keelway.types import Array, Priority

#: What a run made of one share: its outputs in the order wanted, or why there are none. Empty: nobody waited any more.
Outcome = Sequence[Array] | Exception

#: Under pressure a run is not made smaller for one late request than brings this share of the best throughput.
_LEAST_RATE = 0.8
#: Runs of the largest size that an estimate leaves as a margin where more waits than one run takes.
_MARGIN = 0.5
#: Seconds that are not worth a timer.
_FINEST = 1e-4


class Unusual(Exception):
    """The outcome of a share whose rows are not ``usual``. None of them was run."""


class Share(msgspec.Struct, frozen=True, gc=False):
    """The part of one request in a run: ``rows`` rows of ``inputs``, for the outputs ``wanted``.

    ``settle`` is called exactly once with the outcome; it raises nothing. ``abandoned`` says that nobody waits any
    more: then ``settle`` is told so by an empty outcome, and nothing is run. ``deadline`` is on the monotonic clock, in
    seconds. ``usual``, of a share that nobody has validated, says whether there is nothing to say of rows, its own or
    those of several shares that have the same ``usual``.
    """

    inputs: Mapping[str, Array]
    rows: int
    wanted: tuple[str, ...]
    settle: Callable[[Outcome], None]
    abandoned: Callable[[], bool]
    deadline: float = math.inf
    priority: Priority = Priority.INTERACTIVE
    usual: Callable[[Mapping[str, Array]], bool] | None = None


class Pending(msgspec.Struct, eq=False):
    """A share in a queue: ``left`` of its rows have not been given to a run. ``number`` is its place in line."""

    share: Share
    number: int
    since: float
    left: int


def kind_of(share: Share) -> tuple[object, ...]:
    """Only shares of one kind meet in a run: they want the same outputs, are checked by the same rules, and
    their rows have the same shapes."""
    return (share.wanted, share.usual, *[array.shape[1:] for array in share.inputs.values()])


def batches(shares: Iterable[Share], max_rows: int) -> list[list[Share]]:
    """``shares`` in runs of at most ``max_rows`` rows, in order; a larger share is a run of its own."""
    open_batches: dict[object, tuple[list[Share], int]] = {}
    made: list[list[Share]] = []
    for share in shares:
        kind = kind_of(share)
        batch, rows = open_batches.get(kind, ([], max_rows))
        if rows + share.rows > max_rows:
            batch, rows = [], 0
            made.append(batch)
        batch.append(share)
        open_batches[kind] = (batch, rows + share.rows)
    return made


class Pace(NamedTuple):
    """How long runs take: the measured ``curve``, times a ``factor`` for what they really take now. ``max_rows`` is the
    most of one run, 0 where every request is a run of its own, whatever its size."""

    curve: Curve
    factor: float
    max_rows: int

    def seconds(self, rows: int) -> float:
        return self.curve.seconds(rows) * self.factor

    def rows_within(self, seconds: float) -> int:
        return self.curve.rows_within(seconds / self.factor, self.max_rows)

    def cost(self, rows: int) -> float:
        """Seconds of a slot that ``rows`` waiting rows of one request take until its turn is over for the first time:
        where runs are shared, their part of a full one."""
        if not self.max_rows:
            return self.seconds(rows)
        return self.seconds(self.max_rows) * min(rows, self.max_rows) / self.max_rows

    def least_rows(self) -> int:
        """The smallest run that brings ``_LEAST_RATE`` of the throughput of a full one."""
        wanted = self.curve.rate(self.max_rows) * _LEAST_RATE
        low, high = 1, self.max_rows
        while low < high:
            middle = (low + high) // 2
            if self.curve.rate(middle) >= wanted:
                high = middle
            else:
                low = middle + 1
        return low


Waiting = TypeVar("Waiting", bound=Pending)


class Composed(NamedTuple, Generic[Waiting]):
    """A run: rows of each pending share, in order; and those that are too late for any run."""

    parts: list[tuple[Waiting, int]]
    late: list[Waiting]


def compose(waiting: Iterable[Waiting], pace: Pace, now: float, *, pressed: bool) -> Composed[Waiting]:
    """The next run out of ``waiting``, which are of one kind and in line. It has at most ``max_rows`` rows, and no more
    than what lets its earliest deadline be kept.

    A request that has too little time for a run of any size is late. So it is, where more waits than fits
    (``pressed``), if it would make the run so small that others become late for it. If all are late, the first is tried
    all the same: the slot is free, and an estimate may be wrong.
    """
    least = pace.least_rows() if pressed and pace.max_rows else 1
    parts: list[tuple[Waiting, int]] = []
    late: list[Waiting] = []
    rows, limit = 0, pace.max_rows or 1
    for pending in waiting:
        if rows >= limit:
            break
        slack = pending.share.deadline - now
        if not pace.max_rows:
            if pace.seconds(pending.left) <= slack:
                return Composed([(pending, pending.left)], late)
            late.append(pending)
            continue
        fits = pace.max_rows if slack == math.inf else pace.rows_within(slack)
        if fits < least:
            late.append(pending)
        elif fits <= rows:
            break
        else:
            limit = min(limit, fits)
            parts.append((pending, min(pending.left, limit - rows)))
            rows += parts[-1][1]
    if not parts and late:
        first = late.pop(0)
        parts.append((first, min(first.left, pace.max_rows or first.left)))
    return Composed(parts, late)


class Line(NamedTuple):
    """What is ahead of a new request: seconds until the first slot is free, ``cost`` seconds of waiting work for all
    ``slots`` together, and whether anybody waits."""

    until_free: float
    cost: float
    rows: int
    slots: int


def answered_in(line: Line, pace: Pace, rows: int) -> float:
    """Seconds until a new request of ``rows`` rows has its answer, estimated; without a margin."""
    if not pace.max_rows:
        return line.until_free + line.cost / line.slots + pace.seconds(rows)
    full, in_line = pace.seconds(pace.max_rows), line.rows + rows
    runs = math.ceil(in_line / pace.max_rows)
    last = pace.seconds(in_line) if runs == 1 else full
    return line.until_free + (runs - 1) * full / line.slots + last


def too_late(line: Line, pace: Pace, rows: int, left: float) -> float:
    """By how many seconds a new request would miss its deadline, ``left`` seconds from now; 0 if it would not. Who
    finds a slot free is never refused: there is nothing to wait for, and an estimate may be wrong."""
    if line.until_free <= 0 and not line.rows:
        return 0.0
    crowded = line.rows + rows > (pace.max_rows or rows)
    margin = _MARGIN * pace.seconds(pace.max_rows or rows) if crowded else 0.0
    return max(0.0, answered_in(line, pace, rows) + margin - left)


def hold_for(oldest: float, rows: int, deadline: float, pace: Pace, max_delay: float, now: float) -> float:
    """Seconds for which a free slot waits for more company: until the oldest request has waited ``max_delay``, but not
    with a full run, and not so long that the earliest ``deadline`` would be missed by a full run."""
    if not max_delay or not pace.max_rows or rows >= pace.max_rows:
        return 0.0
    slack = deadline - now - pace.seconds(pace.max_rows)
    seconds = min(oldest + max_delay - now, slack)
    return seconds if seconds > _FINEST else 0.0
