"""What an answer is worth: one of a few outcomes, by the answer that the model gives when it is asked directly. Pure.

``Told`` is what a caller heard, whatever the transport; ``Tally`` counts.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from tests.soak.models import BROKEN, Question

from keelway.types import Array

#: Seconds that a request may take where its caller gives none (``limits.request_timeout`` of the servers).
LIMIT = 10.0
#: Seconds beyond its deadline after which a request that was not answered hangs.
MARGIN = 5.0
#: Seconds after a worker was killed in which connections may break.
STRUCK = 1.0
#: Of a probability or a number: what float32 and another order of adding up may change.
TOLERANCE = 1e-5
_SHOWN = 20


class Outcome(StrEnum):
    RIGHT = "right"
    REFUSED = "refused"
    GUILTY = "guilty refused"
    LOST = "lost to a kill"
    LEFT = "left"
    WRONG = "wrong"
    HUNG = "hung"
    UNEXPECTED = "unexpected"


#: None of these may occur, and all of those must.
HARM = (Outcome.WRONG, Outcome.HUNG, Outcome.UNEXPECTED)
NEEDED = (Outcome.RIGHT, Outcome.REFUSED, Outcome.GUILTY, Outcome.LEFT)


@dataclass(frozen=True)
class Told:
    """``code`` is a status of gRPC, or ``BROKEN`` for a connection that ended and ``SILENT`` for no answer in time.
    ``detail`` says more for a person; ``outputs`` are those of the answer by name."""

    code: str
    version: str = ""
    outputs: Mapping[str, Array] = field(default_factory=dict)
    detail: str = ""


def judge(question: Question, told: Told, waited: float, struck: bool) -> tuple[Outcome, str]:
    """``waited`` is in seconds; ``struck``: a worker of that server was killed less than ``STRUCK`` seconds ago. The
    text says why, where it is harm."""
    if waited > (question.deadline or LIMIT) + MARGIN:
        return Outcome.HUNG, f"{told.code} after {waited:.1f} s"
    match told.code:
        case "OK":
            reason = differs(question, told)
            return (Outcome.WRONG, reason) if reason else (Outcome.RIGHT, "")
        case "SILENT":
            return Outcome.HUNG, f"no answer after {waited:.1f} s"
        case "BROKEN" if struck:
            return Outcome.LOST, ""
        case "INVALID_ARGUMENT" | "INTERNAL" if question.guilty:
            expected = "INTERNAL" if question.guilty == BROKEN else "INVALID_ARGUMENT"
            if told.code == expected:
                return Outcome.GUILTY, ""
        case "UNAVAILABLE":
            return Outcome.REFUSED, ""
        case "DEADLINE_EXCEEDED" if question.deadline is not None:
            return Outcome.REFUSED, ""
        case "DEADLINE_EXCEEDED" if waited > 0.9 * LIMIT:
            # Queues are far shorter than that: it was lost, and the server's own limit has only ended it.
            return Outcome.HUNG, f"given up by the server after {waited:.1f} s"
    return Outcome.UNEXPECTED, f"{told.code} after {waited:.3f} s: {told.detail}"


def differs(question: Question, told: Told) -> str:
    """Why ``told`` is not the answer to ``question``; empty if it is."""
    if question.guilty:
        return "a guilty row was answered"
    expected = question.expected(told.version)
    if expected is None:
        return f"there is no version '{told.version}'"
    if told.outputs.keys() != expected.keys():
        return f"outputs {sorted(told.outputs)}"
    for name, values in expected.items():
        found = told.outputs[name]
        if found.shape != values.shape:
            return f"{name} of shape {found.shape} and not {values.shape}"
        rows = [place for place in range(len(values)) if not _equal(found[place], values[place])]
        if rows:
            return f"{name} of version {told.version} differs in {len(rows)} of {len(values)} rows, first {rows[0]}"
    return ""


def _equal(found: Array, expected: Array) -> bool:
    if np.issubdtype(expected.dtype, np.integer):
        return bool(np.array_equal(found, expected))
    return bool(np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE))


class Tally:
    """Outcomes by lane (server, format and model), from any thread; the first few harms of each kind in words."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[tuple[str, Outcome]] = Counter()
        self.codes: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.harms: list[str] = []
        self.slowest = 0.0

    def note(self, lane: str, outcome: Outcome, reason: str = "", told: Told | None = None, waited: float = 0) -> None:
        with self._lock:
            self.counts[lane, outcome] += 1
            if told is not None:
                self.codes[told.code] += 1
                if outcome is Outcome.RIGHT:
                    self.slowest = max(self.slowest, waited)
                    self.versions[f"{lane.rpartition(' ')[2]} {told.version}"] += 1
            if outcome in HARM and self._total(outcome) <= _SHOWN:
                self.harms.append(f"{time.strftime('%H:%M:%S')} {outcome}: {lane}: {reason}")

    def totals(self) -> dict[str, int]:
        with self._lock:
            return {outcome.value: self._total(outcome) for outcome in Outcome}

    def _total(self, outcome: Outcome) -> int:
        return sum(count for (_, one), count in self.counts.items() if one is outcome)

    def harm(self) -> int:
        with self._lock:
            return sum(map(self._total, HARM))

    def unanswered(self, lanes: Iterable[str]) -> list[str]:
        """Those of ``lanes`` that never got a right answer: nothing was shown of them."""
        return [lane for lane in lanes if not self.counts[lane, Outcome.RIGHT]]
