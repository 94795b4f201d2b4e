"""The metrics of several workers as one page. Plain values, so that they can travel between processes.

Counters and histograms are added up, and what a worker that has gone had counted is kept: a sum never falls. A gauge is
of living workers only, and absent where none of them has set it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from keelway.observe.metrics import METRICS

_Key = tuple[str, tuple[tuple[str, str], ...]]

_Together = Callable[[float, float], float]

_TOGETHER: Final[Mapping[str, _Together]] = {"sum": operator.add, "largest": max, "smallest": min}
#: How two values of a metric become one, where they are not added up.
_ACROSS: Final[Mapping[str, _Together]] = {metric.name: _TOGETHER[metric.across] for metric in METRICS}


class Series(msgspec.Struct, frozen=True, array_like=True):
    """One line of the page."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Table(msgspec.Struct, frozen=True, array_like=True):
    """One metric: ``kind`` is counter, gauge or histogram, in ``series`` every line of it."""

    name: str
    kind: str
    help: str
    series: tuple[Series, ...]


def tables(registry: Collector) -> tuple[Table, ...]:
    """What ``registry`` holds now."""
    return tuple(
        Table(
            family.name,
            family.type,
            family.documentation,
            tuple(Series(one.name, tuple(one.labels.items()), one.value) for one in family.samples),
        )
        for family in registry.collect()
    )


def merge(reports: Iterable[Sequence[Table]]) -> tuple[Table, ...]:
    """The tables of several processes as those of one, in the order in which they appear first."""
    names: dict[str, Table] = {}
    values: dict[str, dict[_Key, float]] = {}
    for table in (table for report in reports for table in report):
        names.setdefault(table.name, table)
        known = values.setdefault(table.name, {})
        together: _Together = _ACROSS.get(table.name, operator.add)
        for one in table.series:
            key = (one.name, one.labels)
            before = known.get(key)
            known[key] = one.value if before is None else together(before, one.value)
    return tuple(
        Table(name, table.kind, table.help, tuple(Series(*key, value) for key, value in values[name].items()))
        for name, table in names.items()
    )


class Ledger:
    """The last report of each worker, and what those that have gone had counted. Kept by the supervisor."""

    def __init__(self) -> None:
        self._living: dict[Hashable, Sequence[Table]] = {}
        self._gone: tuple[Table, ...] = ()

    def heard(self, worker: Hashable, report: Sequence[Table]) -> None:
        """``report`` is the newest of ``worker``; later than all before."""
        self._living[worker] = report

    def left(self, worker: Hashable) -> None:
        """``worker`` is no more: what it had counted stays, what it had under way does not."""
        last = [table for table in self._living.pop(worker, ()) if table.kind != "gauge"]
        self._gone = merge((self._gone, last))

    def page(self) -> tuple[Table, ...]:
        """All workers together, those that have gone included."""
        return merge((*self._living.values(), self._gone))


class Page(Collector):
    """``tables`` as something that Prometheus' library can write down, in each of its formats."""

    def __init__(self, given: Sequence[Table]) -> None:
        self._given = given

    def collect(self) -> Iterator[Family]:
        for table in self._given:
            family = Family(table.name, table.help, table.kind)
            for one in table.series:
                family.add_sample(one.name, dict(one.labels), one.value)
            yield family


def page_registry(given: Sequence[Table]) -> CollectorRegistry:
    """A registry that holds ``given`` and nothing else."""
    registry = CollectorRegistry()
    registry.register(Page(given))
    return registry
