"""One thing that was checked: what was found, the bound, and what may be concluded. Pure.

A finding that rests on an estimate is first what the estimate *proves*: passed, or inconclusive. Whether it has failed
is decided when all of them are there (``keelway.checks.gate``), since many tests fail one by chance.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from keelway.statistics.estimates import Estimated, critical, p_value

Verdict = Literal["passed", "failed", "inconclusive", "skipped"]


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """``figure`` with its interval from ``low`` to ``high``, held against ``at_least``, ``at_most`` or both. It rests
    on so many ``rows``.

    ``p_value`` is that of keeping the bounds, ``None`` for a fact, which no chance has a part in. ``proof``: unless it
    is proved, the version has not passed. ``said`` is for people, and holds no value of the sample's features."""

    family: str
    name: str
    verdict: Verdict
    said: str = ""
    slice: str = ""
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    rows: int = 0
    p_value: float | None = None
    proof: bool = True


def fact(family: str, name: str, holds: bool, said: str, *, rows: int = 0, figure: float | None = None) -> Finding:
    """What is so or is not, whatever the sample."""
    return Finding(family, name, "passed" if holds else "failed", said, figure=figure, rows=rows)


def skipped(family: str, name: str, why: str) -> Finding:
    """What was not checked, and why."""
    return Finding(family, name, "skipped", why, proof=False)


def undecided(family: str, name: str, why: str, *, rows: int, slice_: str = "", proof: bool = True) -> Finding:
    """What these rows are too few for, or say nothing about."""
    return Finding(family, name, "inconclusive", why, slice_, rows=rows, proof=proof)


def judged(
    family: str,
    name: str,
    estimated: Estimated,
    alpha: float,
    *,
    rows: int,
    at_least: float | None = None,
    at_most: float | None = None,
    said: str = "",
    slice_: str = "",
    proof: bool = True,
) -> Finding:
    """Passed if the estimate proves at ``alpha`` that the bounds are kept. With two bounds both have to be proved (two
    one-sided tests: D. J. Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987), 657-680)."""
    distances = []
    if at_least is not None:
        distances.append(estimated.z(at_least))
    if at_most is not None:
        distances.append(-estimated.z(at_most))
    z = min(distances)
    low, high = estimated.interval(alpha)
    return Finding(
        family,
        name,
        "passed" if z >= critical(alpha) else "inconclusive",
        said,
        slice_,
        estimated.value,
        low if math.isfinite(low) else None,
        high if math.isfinite(high) else None,
        at_least,
        at_most,
        rows,
        # Either bound may be the broken one.
        min(1.0, len(distances) * p_value(z)),
        proof,
    )
