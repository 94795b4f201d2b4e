"""``python -m benchmarks.leak``: whether memory grows over very many requests, REST by wrk and gRPC by h2load in turns.

After a warm-up of a tenth of the requests, resident memory is read behind each burst; the slope of a straight line
through what was read says what a million requests add. It ends with status 1 if that is more than ``--most`` and all of
them have added more than what waits for the collector. It writes no page: the section ``growth`` of ``python -m
benchmarks`` is the short one that does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import served
from benchmarks.lineup import GRPC, REST, Scenario
from benchmarks.load import require_tools
from benchmarks.models import FOREST, make_models
from benchmarks.peers import ROOT
from benchmarks.processes import weight
from benchmarks.served import Bench

CONNECTIONS = 16
BURST_SECONDS = 5.0
#: MiB. A server collects cycles every 20,000 objects, so its memory is a saw whose teeth are some two MiB high; a
#: search that ends on the rise of one has found no leak, however steep it is.
TOOTH = 4.0


class Look(NamedTuple):
    """Resident memory in MiB after so many requests."""

    requests: int
    resident: float


def slope(looks: Sequence[Look]) -> float:
    """MiB that a million requests add: the straight line of least squares through ``looks``; 0 for fewer than two."""
    if len(looks) < 2:
        return 0.0
    requests, resident = zip(*looks, strict=True)
    return float(np.polyfit(np.array(requests) / 1e6, resident, 1)[0])


def leaks(looks: Sequence[Look], most: float) -> bool:
    """Whether a million requests add more than ``most`` MiB, and all of them more than a tooth of the saw."""
    return slope(looks) > most and looks[-1].resident - looks[0].resident > TOOTH


def drive(wanted: int, bursts: Sequence[Callable[[], int]], resident: Callable[[], float]) -> list[Look]:
    """A look before anything and one behind each burst, the ``bursts`` in turns, until ``wanted`` requests are done."""
    looks, turn = [Look(0, resident())], 0
    while looks[-1].requests < wanted:
        done = looks[-1].requests + bursts[turn % len(bursts)]()
        looks.append(Look(done, resident()))
        turn += 1
    return looks


def main() -> None:
    chosen = _arguments()
    require_tools()
    models = make_models(ROOT / ".cache" / "bench", (FOREST,))
    with tempfile.TemporaryDirectory() as scratch:
        looks = measure(Bench(models, Path(scratch), 1, chosen.burst), chosen.requests, tuple(chosen.over))
    first, last, found = looks[0], looks[-1], slope(looks)
    print(f"requests  {last.requests:,}")
    print(f"before    {first.resident:.1f} MiB")
    print(f"after     {last.resident:.1f} MiB")
    print(f"slope     {found:+.3f} MiB for each million requests, at most {chosen.most:g}")
    if leaks(looks, chosen.most):
        raise SystemExit(1)


def measure(bench: Bench, requests: int, over: Sequence[str]) -> list[Look]:
    """Looks at keelway with all its defaults while ``requests`` are driven at it; those at its warm-up are left out."""
    both, model = served.keelway_of(GRPC), bench.models[FOREST]
    asked = {"rest": served.keelway_of(REST), "grpc": both}
    with served.started(both, Path(sys.executable), model, bench.scratch) as running:

        def burst(name: str) -> Callable[[], int]:
            one, scenario = asked[name], Scenario(1, CONNECTIONS)
            reply = served.check(one, running, model, 1)
            return lambda: served.apply(one, running, model, bench, scenario, reply, bench.seconds).requests

        def resident() -> float:
            return weight(running.process).resident

        bursts, began = [burst(name) for name in over], time.monotonic()

        def told() -> float:
            now = resident()
            print(f"{time.monotonic() - began:8.0f} s  {now:8.1f} MiB", file=sys.stderr, flush=True)
            return now

        drive(max(1, requests // 10), bursts, told)
        return drive(requests, bursts, told)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leak", description="Look for a leak.")
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many, after the warm-up (default 1000000)")
    parser.add_argument("--over", nargs="+", choices=("rest", "grpc"), default=["rest", "grpc"], help="default both")
    parser.add_argument("--burst", type=float, default=BURST_SECONDS, help="seconds of one burst (default 5)")
    parser.add_argument("--most", type=float, default=1.0, help="MiB that a million requests may add (default 1)")
    chosen = parser.parse_args()
    if chosen.requests < 1 or chosen.burst <= 0:
        parser.error("--requests and --burst have to be greater than 0")
    return chosen


if __name__ == "__main__":
    main()
