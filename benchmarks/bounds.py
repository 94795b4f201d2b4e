"""What the project promises of its own speed, and whether the stored results keep it. Pure.

A bound compares rates of one scenario, round by round; with several servers, against whichever was best in that round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.lineup import KEELWAY, Scenario
from benchmarks.lineup_batching import ONE_BY_ONE
from benchmarks.results import Section
from benchmarks.rounds import Spread, better_of, ratios

ONE_ROW, MANY_ROWS, ALONE = Scenario(1, 16), Scenario(32, 16), Scenario(1, 1)


class Bound(NamedTuple):
    """keelway's rate is at least ``least`` times the best of ``servers``."""

    section: str
    what: str
    scenario: Scenario
    servers: tuple[str, ...]
    against: str
    least: float


class Outcome(NamedTuple):
    bound: Bound
    found: Spread

    @property
    def met(self) -> bool:
        return self.found.median >= self.bound.least

    @property
    def margin(self) -> float:
        """By how much the median is over the bound, or under it: a share of the bound, never negative."""
        return abs(self.found.median / self.bound.least - 1)


BOUNDS = (
    Bound("rest", "REST", ONE_ROW, ("MLServer", "KServe"), "the better of MLServer and KServe", 6),
    Bound("rest", "REST", ONE_ROW, ("FastAPI",), "FastAPI", 2),
    Bound("rest", "REST", MANY_ROWS, ("MLServer", "KServe"), "the better of MLServer and KServe", 3),
    Bound("rest", "REST", ONE_ROW, ("uvicorn, raw ASGI",), "uvicorn, raw ASGI, with the same inference", 0.5),
    Bound("turns", "Runs shared in a turn of the loop", ONE_ROW, (ONE_BY_ONE,), "without sharing", 1.25),
    Bound("turns", "Runs shared in a turn of the loop", ALONE, (ONE_BY_ONE,), "without sharing", 0.97),
    Bound("batching", "Batching an idle model", ALONE, (ONE_BY_ONE,), "without batching", 0.97),
    Bound("grpc", "gRPC", ONE_ROW, ("grpc.aio, bare",), "bare grpc.aio with the same inference", 0.85),
    # One request at a time, so that the inverse of the rate is the time it takes: 1.3 times the floor's at most.
    Bound("cache", "An answer from memory", ALONE, ("uvicorn, constant answer",), "uvicorn's constant answer", 0.77),
)


def outcome(bound: Bound, sections: Mapping[str, Section]) -> Outcome | None:
    """How ``bound`` fares, or None where one of its servers has not been measured."""
    section = sections.get(bound.section)
    if section is None:
        return None
    scenario = bound.scenario.name
    ours = section.values(scenario, KEELWAY, "rate")
    theirs = [section.values(scenario, name, "rate") for name in bound.servers]
    measured = [rates for rates in theirs if rates is not None]
    if ours is None or len(measured) < len(theirs):
        return None
    return Outcome(bound, ratios(ours, better_of(*measured)))
