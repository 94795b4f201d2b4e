"""``make soak``: two real servers under mixed load while things go wrong, every answer compared with the direct one.

Exit code 1 if an answer was wrong, none came in time, something else was answered than may be, memory grew, or a fault
was not felt. Ctrl-C ends it and all that it started.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.soak import report
from tests.soak.faults import Faults, counted
from tests.soak.judging import Outcome, Tally
from tests.soak.memory import Scales
from tests.soak.stage import Soaked, set_up, soak

#: Seconds between two lines where nobody watches.
_EVERY = 15
LEAST_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long; default 600")
    parser.add_argument("--seed", type=int, help="of everything that is drawn; default: a new one, which is printed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found here too")
    chosen = parser.parse_args(arguments)
    if chosen.seconds < LEAST_SECONDS:
        parser.error(f"a soak of less than {LEAST_SECONDS} s has not seen every fault")
    seed = random.SystemRandom().randrange(10_000) if chosen.seed is None else chosen.seed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say(f"soak: seed {seed}, {chosen.seconds:g} s")
    try:
        with TemporaryDirectory(prefix="keelway-soak-") as name, set_up(Path(name), seed) as stage:
            found = summary(soak(stage, chosen.seconds, seed, Progress()), seed)
    except KeyboardInterrupt:
        say("soak: interrupted; everything it started has been ended")
        return 130
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1))
    sys.stdout.write(report.text(found))
    return 0 if found["passed"] else 1


def summary(soaked: Soaked, seed: int) -> dict[str, Any]:
    """The document of a soak, its verdict included."""
    lives = soaked.scales.lives()
    others = {
        "never answered right": soaked.unanswered,
        "fault": soaked.unfelt,
        "still going on": soaked.unrest,
        "trouble": soaked.faults.failed,
    }
    failed = report.failures(soaked.tally, lives, others)
    more: dict[str, Any] = {
        "faults": dict(soaked.faults.done),
        "logged": dict(soaked.logged),
        "events": soaked.faults.events,
    }
    more["counted"] = {name: counted(page) for name, page in soaked.pages.items()}
    return report.document(seed, soaked.seconds, soaked.tally, lives, failed, more)


class Progress:
    """A line each second on a terminal, one now and then elsewhere."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, now: float, tally: Tally, faults: Faults, scales: Scales) -> None:
        watched = sys.stderr.isatty()
        if not watched and now - self._last < _EVERY:
            return
        self._last = now
        totals, harm = tally.totals(), tally.harm()
        memory = ", ".join(f"{role} {samples[-1].resident:.0f}" for (role, _), samples in scales.samples.items()
                           if samples[-1].time == now)  # fmt: skip
        line = (
            f"{now:4.0f} s: {totals[Outcome.RIGHT.value]:,} right, {totals[Outcome.REFUSED.value]:,} refused, {harm} "
            f"harmed; {', '.join(faults.now.values()) or 'no fault'}; MiB: {memory}"
        )
        say(f"\r\033[K{line}" if watched else line, end="" if watched else "\n")


def say(words: str, end: str = "\n") -> None:
    print(words, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
