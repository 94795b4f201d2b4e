"""A share of a run as something to await, for whoever does not encode the outcome at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from keelway.batching.policy import Outcome, Share
from keelway.types import Array


def awaited(
    submit: Callable[[Share], None],
    inputs: Mapping[str, Array],
    rows: int,
    wanted: tuple[str, ...],
    ran: Callable[[int], None],
) -> asyncio.Future[Sequence[Array]]:
    """The outputs of ``rows`` rows of ``inputs``, run as ``submit`` will have it. ``ran`` is told the rows of each
    whole run. Raises what the model does; cancelled before the run, the share is dropped."""
    outputs: asyncio.Future[Sequence[Array]] = asyncio.get_running_loop().create_future()

    def settle(outcome: Outcome, run_rows: int) -> None:
        if run_rows:
            ran(run_rows)
        if outputs.done():
            return
        if not isinstance(outcome, Exception):
            outputs.set_result(outcome)
        else:  # no future takes a StopIteration
            outputs.set_exception(RuntimeError() if isinstance(outcome, StopIteration) else outcome)

    submit(Share(inputs, rows, wanted, settle, outputs.cancelled))
    return outputs
