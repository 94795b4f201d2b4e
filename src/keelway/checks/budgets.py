"""Budgets of time and size. The time is of this machine, now: keep the machine when you compare."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import orjson

from keelway.checks.asking import rows_of
from keelway.checks.case import Case
from keelway.checks.findings import Finding, fact, judged, skipped
from keelway.clock import Clock
from keelway.errors import InvalidInput
from keelway.statistics.estimates import Share

FAMILY = "budgets"

_RUNS = 400
_WARM_UP = 20
#: Seconds that measuring may take.
_PATIENCE = 20.0


def check(case: Case, clock: Clock) -> Iterator[Finding]:
    budgets = case.plan.budgets
    if budgets.latency_ms is None and budgets.size_mb is None:
        yield skipped(FAMILY, "latency and size", "no budget is declared")
    if budgets.size_mb is not None:
        size = case.subject.size / 1e6
        said = f"{size:.3g} MB of files, at most {budgets.size_mb:g}"
        yield fact(FAMILY, "size", size <= budgets.size_mb, said, figure=size)
    if budgets.latency_ms is not None:
        yield _latency(case, clock, budgets.latency_ms, budgets.quantile)


def _latency(case: Case, clock: Clock, budget: float, quantile: float) -> Finding:
    """The share of requests beyond the budget, which is below 1 − quantile if the quantile is within it."""
    times = np.array(measured(case, clock)) * 1000
    said = (
        f"one row through the request line without a network, on this machine: median {np.median(times):.3g} ms, "
        f"{quantile:.0%} within {np.quantile(times, quantile):.3g} ms"
    )
    over = Share(int((times > budget).sum()), len(times))
    title = f"share of requests over {budget:g} ms"
    return judged(FAMILY, title, over, case.plan.alpha, rows=len(times), at_most=1 - quantile, said=said)


def measured(case: Case, clock: Clock) -> list[float]:
    """Seconds of single requests, one after the other."""
    rows = rows_of(case.frame[~case.answers.refused].head(_RUNS), case.subject.signature.features)
    if not rows:
        raise InvalidInput("no row of the sample is answered, so no time can be measured")
    bodies = [orjson.dumps({"instances": [row]}) for row in rows]
    for body in islice(bodies, _WARM_UP):
        case.subject.answer(body)
    times: list[float] = []
    ends = clock.monotonic() + _PATIENCE
    for place in range(_RUNS):
        began = clock.monotonic()
        if began > ends and len(times) > 1:
            break
        case.subject.answer(bodies[place % len(bodies)])
        times.append(clock.monotonic() - began)
    return times
