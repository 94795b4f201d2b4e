"""One run for rows of several requests: joined, run, checked, taken apart. Both batchers run what they chose so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keelway.batching.policy import Outcome, Share
from keelway.errors import ModelFailed, RowsRefused
from keelway.types import Array

Run = Callable[[Mapping[str, Array], Sequence[str]], Sequence[Array]]


class Part(NamedTuple):
    """``rows`` rows of ``share``, from ``start`` on."""

    share: Share
    start: int
    rows: int

    @property
    def inputs(self) -> Mapping[str, Array]:
        share, end = self.share, self.start + self.rows
        if self.rows == share.rows:
            return share.inputs
        return {name: array[self.start : end] for name, array in share.inputs.items()}


def run_together(run: Run, parts: Sequence[Part], *, joined: bool = True) -> list[Outcome]:
    """What became of each part, all of one kind and at least one. If the run fails it is run again in halves, until
    only the guilty part fails; who has left meanwhile is left out. Raises nothing of the model's.

    ``joined`` says that rows were joined or taken apart, or may be: then every output has to have as many rows as the
    run. A model without a batch axis promises nothing of that kind."""
    rows = sum(part.rows for part in parts)
    try:
        outputs = run(join([part.inputs for part in parts]), parts[0].share.wanted)
        if joined and any(len(output) != rows for output in outputs):
            raise ModelFailed("the model answered another number of rows than it was given")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a model may raise anything, even what would end a thread
        if len(parts) > 1:
            middle = len(parts) // 2
            return [*_half(run, parts[:middle]), *_half(run, parts[middle:])]
        return [_failure(error, parts[0].start)]
    if len(parts) == 1:
        return [outputs]
    made: list[Outcome] = []
    at = 0
    for part in parts:
        made.append([output[at : at + part.rows] for output in outputs])
        at += part.rows
    return made


def _half(run: Run, parts: Sequence[Part]) -> list[Outcome]:
    waiting = [part for part in parts if not part.share.abandoned()]
    made = iter(run_together(run, waiting) if waiting else ())
    left = set(map(id, parts)) - set(map(id, waiting))
    return [() if id(part) in left else next(made) for part in parts]


def _failure(error: BaseException, start: int) -> Exception:
    """``error`` as the outcome of a part that begins at row ``start`` of its request."""
    if isinstance(error, RowsRefused) and start:
        return RowsRefused.of({start + row: refused for row, refused in error.errors.items()})
    return error if isinstance(error, Exception) else RuntimeError(f"the model raised {type(error).__name__}")


def join(several: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """The rows of ``several`` inputs of one kind, at least one, below each other."""
    first = several[0]
    if len(several) == 1:
        return first
    return {name: np.concatenate([inputs[name] for inputs in several]) for name in first}
