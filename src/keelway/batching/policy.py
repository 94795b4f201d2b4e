"""Which requests share a run. Pure: nothing is run here, and nothing waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from keelway.types import Array

#: What a run of a whole batch made of one share: its outputs in the order wanted, or why there are none.
Outcome = Sequence[Array] | Exception


class Share(msgspec.Struct, frozen=True, gc=False):
    """The part of one request in a run: ``rows`` rows of ``inputs``, for the outputs ``wanted``.

    ``settle`` is called exactly once, with the outcome and with the rows of the whole run for the first share of it
    (0 for the others); it raises nothing. ``abandoned`` says that nobody waits any more: then ``settle`` is told so by
    an empty outcome, and nothing is run.
    """

    inputs: Mapping[str, Array]
    rows: int
    wanted: tuple[str, ...]
    settle: Callable[[Outcome, int], None]
    abandoned: Callable[[], bool]


def batches(shares: Iterable[Share], max_rows: int) -> list[list[Share]]:
    """``shares`` in runs of at most ``max_rows`` rows, in order; a larger share is a run of its own.

    Only shares that want the same outputs, and whose rows have the same shapes, meet in a run."""
    open_batches: dict[object, tuple[list[Share], int]] = {}
    made: list[list[Share]] = []
    for share in shares:
        kind = (share.wanted, *[array.shape[1:] for array in share.inputs.values()])
        batch, rows = open_batches.get(kind, ([], max_rows))
        if rows + share.rows > max_rows:
            batch, rows = [], 0
            made.append(batch)
        batch.append(share)
        open_batches[kind] = (batch, rows + share.rows)
    return made
