"""Micro-batching: what one turn of the event loop has read becomes one run, without a timer.

The rows of all are checked together too, which costs hardly more than those of one; only who is in a run that fails
that is looked at by itself.

Nobody waits for a batch to fill: a request that comes alone is run alone, at once where it has been so for a while. For
models that are run on the event loop; one batcher for each served version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from keelway.batching.policy import Share, Unusual, batches
from keelway.batching.together import Part, Run, join, run_together
from keelway.ports import BatchMeters
from keelway.types import Array

#: Turns with one request each, after which requests are run at once.
_LONELY_TURNS = 8
#: Then one request in so many waits for its turn to end, to see whether others come with it; the longer it has been
#: alone, the fewer.
_FIRST_LOOK, _LAST_LOOK = 8, 64


class TurnBatcher:
    """``run`` is a model's, for any number of rows; ``max_rows`` caps those of one run, and larger requests are none of
    its business."""

    checks = True

    def __init__(self, run: Run, max_rows: int, meters: BatchMeters) -> None:
        self.max_rows = max_rows
        self._run = run
        self._meters = meters
        self._waiting: list[Share] = []
        self._lonely = 0
        self._until_look = 0
        self._look_every = _FIRST_LOOK

    @property
    def waiting_rows(self) -> int:
        return sum(share.rows for share in self._waiting)

    def declines(self, rows: int) -> bool:
        """Whether a request of ``rows`` rows is to be run by itself, now: it is too large to share a run, or has been
        coming alone. To wait for the end of a turn costs a request a third of its time, and brings it nothing then."""
        if rows >= self.max_rows:
            return True
        if self._lonely < _LONELY_TURNS or self._waiting:
            return False
        self._until_look -= 1
        if self._until_look > 0:
            return True
        self._until_look = self._look_every
        return False

    def submit(self, share: Share) -> None:
        """Run ``share`` at the end of this turn of the running loop. Its ``settle`` is called from there."""
        self._waiting.append(share)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._count(len(waiting))
        for batch in batches(waiting, self.max_rows):
            self._run_together([share for share in batch if not _dropped(share)])

    def _count(self, requests: int) -> None:
        if requests > 1:
            self._lonely, self._until_look, self._look_every = 0, 0, _FIRST_LOOK
        elif self._lonely < _LONELY_TURNS:
            self._lonely += 1
            self._until_look = self._look_every
        else:
            self._look_every = min(2 * self._look_every, _LAST_LOOK)
            self._until_look = self._look_every

    def _run_together(self, batch: list[Share]) -> None:
        batch = _usual(batch)
        if not batch:
            return
        outcomes = run_together(self._run, [Part(share, 0, share.rows) for share in batch])
        self._meters.ran(sum(share.rows for share in batch))
        for share, outcome in zip(batch, outcomes, strict=True):
            share.settle(outcome)


def _usual(batch: list[Share]) -> list[Share]:
    """``batch``, all of one kind, less the shares that somebody has to look at first: those are told so."""
    if not batch or (usual := batch[0].usual) is None or _holds(usual, join([share.inputs for share in batch])):
        return batch
    kept = []
    for share in batch:
        if len(batch) > 1 and _holds(usual, share.inputs):
            kept.append(share)
        else:
            share.settle(Unusual())
    return kept


def _holds(usual: Callable[[Mapping[str, Array]], bool], inputs: Mapping[str, Array]) -> bool:
    try:
        return usual(inputs)
    except Exception:  # noqa: BLE001 - it comes again where it can be answered to one caller
        return False


def _dropped(share: Share) -> bool:
    if share.abandoned():
        share.settle(())
        return True
    return False
