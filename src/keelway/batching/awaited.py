"""A share of a run as something to await, for whoever does not encode the outcome at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keelway.batching.policy import Outcome, Share
from keelway.types import Array, Priority


def awaited(
    submit: Callable[[Share], Callable[[Any], None] | None],
    inputs: Mapping[str, Array],
    rows: int,
    wanted: tuple[str, ...],
    deadline: float = math.inf,
    priority: Priority = Priority.INTERACTIVE,
) -> asyncio.Future[Sequence[Array]]:
    """The outputs of ``rows`` rows of ``inputs``, run as ``submit`` will have it. Raises what the model does, and what
    ``submit`` raises at once; cancelled before the run, the share is dropped."""
    outputs: asyncio.Future[Sequence[Array]] = asyncio.get_running_loop().create_future()

    def settle(outcome: Outcome) -> None:
        if outputs.done():
            return
        if not isinstance(outcome, Exception):
            outputs.set_result(outcome)
        else:  # no future takes a StopIteration
            outputs.set_exception(RuntimeError() if isinstance(outcome, StopIteration) else outcome)

    leave = submit(Share(inputs, rows, wanted, settle, outputs.cancelled, deadline, priority))
    if leave is not None:
        outputs.add_done_callback(leave)
    return outputs
