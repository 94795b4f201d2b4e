"""Micro-batching: what one turn of the event loop has read becomes one run, without a timer.

Nobody waits for a batch to fill: a request that comes alone is run alone, as soon as the turn has read all that was
there. For models that are run on the event loop; one batcher for each served version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keelway.batching.policy import Outcome, Share, batches
from keelway.errors import ModelFailed
from keelway.types import Array

Run = Callable[[Mapping[str, Array], Sequence[str]], Sequence[Array]]


class TurnBatcher:
    """``run`` is a model's, for any number of rows; ``max_rows`` caps those of one run."""

    def __init__(self, run: Run, max_rows: int) -> None:
        self.max_rows = max_rows
        self._run = run
        self._waiting: list[Share] = []

    def submit(self, share: Share) -> None:
        """Run ``share`` at the end of this turn of the running loop. Its ``settle`` is called from there."""
        self._waiting.append(share)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for batch in batches(waiting, self.max_rows):
            self._run_together([share for share in batch if not _dropped(share)])

    def _run_together(self, batch: Sequence[Share]) -> None:
        """Run ``batch`` as one. If that fails it is run again in halves, until only the guilty share fails."""
        if not batch:
            return
        rows = [share.rows for share in batch]
        try:
            outputs = self._run(_joined(batch), batch[0].wanted)
            if any(len(output) != sum(rows) for output in outputs):
                raise ModelFailed("the model answered another number of rows than it was given")
        except Exception as error:  # noqa: BLE001 - whatever a model raises is the outcome
            if len(batch) == 1:
                batch[0].settle(error, rows[0])
                return
            middle = len(batch) // 2
            self._run_together(batch[:middle])
            self._run_together(batch[middle:])
            return
        at = 0
        for share in batch:
            outcome: Outcome = [output[at : at + share.rows] for output in outputs] if len(batch) > 1 else outputs
            share.settle(outcome, 0 if at else sum(rows))
            at += share.rows


def _dropped(share: Share) -> bool:
    if share.abandoned():
        share.settle((), 0)
        return True
    return False


def _joined(batch: Sequence[Share]) -> Mapping[str, Array]:
    first = batch[0].inputs
    if len(batch) == 1:
        return first
    return {name: np.concatenate([share.inputs[name] for share in batch]) for name in first}
