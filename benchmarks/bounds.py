"""What the project promises of its own speed, and whether the stored results keep it. Pure.

A bound compares rates of one scenario, round by round; with several servers, against whichever was best in that round.
A ceiling is on something that should be small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.guarded import OFF
from benchmarks.lineup import BINARY, HTTP2, KEELWAY, PROTOCOL, Scenario
from benchmarks.lineup_batching import ONE_BY_ONE
from benchmarks.results import PROCESS, Section
from benchmarks.rounds import Spread, better_of, ratios, spread

ONE_ROW, MANY_ROWS, ALONE = Scenario(1, 16), Scenario(32, 16), Scenario(1, 1)


class Bound(NamedTuple):
    """The rate of ``ours`` is at least ``least`` times the best of ``servers``."""

    section: str
    what: str
    scenario: Scenario
    servers: tuple[str, ...]
    against: str
    least: float
    ours: str = KEELWAY


class Ceiling(NamedTuple):
    """A value of keelway, or what it is of another (``divisor``), is at most ``most`` ``unit``."""

    section: str
    what: str
    scenario: str
    value: str
    divisor: str
    most: float
    unit: str


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


CEILINGS = (
    Ceiling("rest", f"REST, {ONE_ROW.name}: the slowest of 100 answers", ONE_ROW.name, "p99", "p50", 3, "× the median"),
    Ceiling("grpc", f"gRPC, {ONE_ROW.name}: the slowest of 100 answers", ONE_ROW.name, "p99", "p50", 3, "× the median"),
    Ceiling("rest", "Resident memory after the load", PROCESS, "loaded", "", 130, "MiB"),
    Ceiling("grpc", "Resident memory after the load, with gRPC", PROCESS, "loaded", "", 130, "MiB"),
)

BOUNDS = (
    Bound("rest", "REST", ONE_ROW, ("MLServer", "KServe"), "the better of MLServer and KServe", 6),
    Bound("rest", "REST", ONE_ROW, ("FastAPI",), "FastAPI", 2),
    Bound("rest", "REST", ALONE, ("FastAPI",), "FastAPI", 1.5),
    Bound("rest", "REST", ONE_ROW, (PROTOCOL,), "a bare asyncio protocol with the same inference", 0.7),
    Bound("rest", "Binary tensors over REST", MANY_ROWS, (KEELWAY,), "its own JSON", 2, BINARY),
    Bound("rest", "REST", MANY_ROWS, ("MLServer", "KServe"), "the better of MLServer and KServe", 3),
    Bound("rest", "REST", ONE_ROW, ("uvicorn, raw ASGI",), "uvicorn, raw ASGI, with the same inference", 0.5),
    Bound("turns", "Runs shared in a turn of the loop", ONE_ROW, (ONE_BY_ONE,), "without sharing", 1.25),
    Bound("turns", "Runs shared in a turn of the loop", ALONE, (ONE_BY_ONE,), "without sharing", 0.97),
    Bound("batching", "Batching an idle model", ALONE, (ONE_BY_ONE,), "without batching", 0.97),
    Bound("grpc", "gRPC", ONE_ROW, ("grpc.aio, bare",), "bare grpc.aio with the same inference", 0.85),
    Bound("grpc", "gRPC", ONE_ROW, (HTTP2,), "bare frames of HTTP/2 with the same inference", 0.6),
    Bound("guard", "Credentials, limits, constraints and tags", ONE_ROW, (OFF,), "without any", 0.5),
    # One request at a time, so that the inverse of the rate is the time it takes: 1.3 times the floor's at most.
    Bound("cache", "An answer from memory", ALONE, ("uvicorn, constant answer",), "uvicorn's constant answer", 0.77),
)


def outcome(bound: Bound, sections: Mapping[str, Section]) -> Outcome | None:
    """How ``bound`` fares, or None where one of its servers has not been measured."""
    section = sections.get(bound.section)
    if section is None:
        return None
    scenario = bound.scenario.name
    ours = section.values(scenario, bound.ours, "rate")
    theirs = [section.values(scenario, name, "rate") for name in bound.servers]
    measured = [rates for rates in theirs if rates is not None]
    if ours is None or len(measured) < len(theirs):
        return None
    return Outcome(bound, ratios(ours, better_of(*measured)))


def reached(ceiling: Ceiling, sections: Mapping[str, Section]) -> Spread | None:
    """What keelway's value is, round by round, or None where it has not been measured."""
    section = sections.get(ceiling.section)
    values = section and section.values(ceiling.scenario, KEELWAY, ceiling.value)
    if not section or not values:
        return None
    divisors = section.values(ceiling.scenario, KEELWAY, ceiling.divisor) if ceiling.divisor else None
    return ratios(values, divisors) if divisors else spread(values)
