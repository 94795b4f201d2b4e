"""Measuring a model at warm-up: time against batch size, and whether a row gets the same answer in company as alone.

Decides with ``keelway.batching.curve`` how its requests meet; ``loading.py`` builds what was chosen. Runs in a worker
thread, never in a request.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keelway.batching.curve import Choice, Curve, best_size, curve_of, gain_in_words, sizes, worth_doubling
from keelway.batching.together import Run
from keelway.clock import Clock
from keelway.types import Array

log = logging.getLogger("keelway.hosting")

#: Seconds that a shared run may take on the event loop: who comes first should not wait long for the rest.
_TURN_SECONDS = 0.002
#: Seconds a row that sharing has to save in worker threads: below that, the threads cost more than the model.
_SLOT_SAVING = 20e-6
_RUNS = 5
#: Rows that are different from each other when a batch is compared with single runs.
_DIFFERENT = 4


class Measurable(NamedTuple):
    """A model that answers at once: its run, one row of plausible inputs, all its outputs, and the median seconds of a
    run of that row."""

    run: Run
    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    seconds: float


def choose_in_turn(model: Measurable, most: int, budget: float, clock: Clock) -> Choice:
    """For a model on the event loop: whether what one turn of the loop reads shares a run, of how many rows."""
    if most < 2:
        return Choice("none", 1, "runtime.micro_batch_rows is 1")
    curve = measure(model, most, min(budget, 0.25), clock, longest=_TURN_SECONDS)
    size = min(best_size(curve, 0.0), curve.rows_within(_TURN_SECONDS, most))
    return _checked(model, Choice("turn", size, ""), curve)


def choose_in_slots(model: Measurable, most: int, budget: float, slots: int, clock: Clock) -> Choice:
    """For a model in ``slots`` worker threads: whether waiting requests share a run, of how many rows at most."""
    if most < 2:
        return Choice("none", 1, "batching.max_batch_size is 1", slots, Curve(((1, model.seconds),)))
    curve = measure(model, most, budget, clock)
    return _checked(model, Choice("slots", best_size(curve, _SLOT_SAVING), "", slots), curve)


def _checked(model: Measurable, choice: Choice, curve: Curve) -> Choice:
    size = choice.max_batch_size
    if len(curve.points) == 1:
        return Choice("none", 1, "no larger run could be measured in the time for it", choice.slots, curve)
    if size < 2:
        last = curve.points[-1][0]
        return Choice("none", 1, f"it gains too little: {gain_in_words(curve, last)} a second", choice.slots, curve)
    refusal = why_rows_depend(model, size)
    if refusal:
        log.warning("rows of several requests are not joined: %s", refusal)
        return Choice("none", 1, refusal, choice.slots, curve)
    return Choice(choice.policy, size, f"{gain_in_words(curve, size)} a second", choice.slots, curve)


def measure(model: Measurable, most: int, budget: float, clock: Clock, longest: float = float("inf")) -> Curve:
    """Seconds of runs of 1, 2, 4 … rows, up to ``most``: until a doubling brings nothing any more, a run takes
    ``longest`` seconds, the model refuses, or ``budget`` seconds are over."""
    points = [(1, model.seconds)]
    ends = clock.monotonic() + budget
    for rows in sizes(most)[1:]:
        curve = curve_of(points)
        expected = min(2.0, rows / points[-1][0]) * points[-1][1]
        if not worth_doubling(curve) or points[-1][1] > longest or clock.monotonic() + 2 * expected > ends:
            break
        seconds = _seconds(model, rows, ends, clock)
        if seconds is None:
            break
        points.append((rows, seconds))
    return curve_of(points)


def _seconds(model: Measurable, rows: int, ends: float, clock: Clock) -> float | None:
    given = {name: np.repeat(array, rows, axis=0) for name, array in model.inputs.items()}
    times: list[float] = []
    try:
        while len(times) < 2 or (len(times) < _RUNS and clock.monotonic() + times[-1] < ends):
            began = clock.monotonic()
            model.run(given, model.outputs)
            times.append(clock.monotonic() - began)
    except Exception as error:  # noqa: BLE001 - a model may refuse more rows than one; then it gets one
        log.warning("a warm-up run of %d rows failed with %s", rows, type(error).__name__)
        return None
    return min(times)  # a busy machine makes runs longer, never shorter


def why_rows_depend(model: Measurable, rows: int) -> str:
    """Empty if every row of a run of ``rows`` is answered as it is alone; otherwise what speaks against joining rows.

    The rows differ from each other where they can: of a model that looks at all rows together, equal rows show
    nothing."""
    try:
        singles = [_varied(model.inputs, place) for place in range(min(rows, _DIFFERENT))]
        alone = [model.run(single, model.outputs) for single in singles]
        places = [place % len(singles) for place in range(rows)]
        together = {name: np.concatenate([singles[place][name] for place in places]) for name in model.inputs}
        answers = model.run(together, model.outputs)
        for position in range(len(model.outputs)):
            expected = np.concatenate([alone[place][position] for place in places])
            if not _same(expected, answers[position]):
                return "a row gets another answer in company than alone"
    except Exception as error:  # noqa: BLE001 - a model may refuse what was made up
        return f"a run of {rows} made-up rows failed with {type(error).__name__}"
    return ""


def _varied(inputs: Mapping[str, Array], place: int) -> dict[str, Array]:
    """The row ``inputs``, with its real numbers moved a little further with each ``place``."""
    step = 0.01 * place
    return {
        name: (array + step * (1 + np.abs(array))).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in inputs.items()
    }


def _same(expected: Array, found: Array) -> bool:
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind in "OUS":
        return bool((found == expected).all())
    return bool(np.allclose(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True))
