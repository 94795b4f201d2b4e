"""What is stored of a measurement, one JSON file for each section of the page, and nothing else is ever printed there.

The files lie in ``.cache/benchmarks`` and are not committed; the page is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

#: The scenario of start and memory.
PROCESS = "process"


class Machine(msgspec.Struct, frozen=True):
    """Where a section was measured. ``load`` is the machine's load average of the last minute before it began."""

    processor: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    load: float


class Figures(msgspec.Struct, frozen=True):
    """One server in one scenario: for each kind of value, such as ``rate``, one number of each round."""

    scenario: str
    server: str
    values: dict[str, tuple[float, ...]]


class Section(msgspec.Struct, frozen=True):
    """One section of the page. ``versions`` names what served, ``absent`` says why a server has no figures."""

    name: str
    measured_at: str
    commit: str
    machine: Machine
    rounds: int
    seconds: float
    versions: dict[str, str]
    figures: tuple[Figures, ...]
    absent: dict[str, str] = {}

    def values(self, scenario: str, server: str, value: str) -> tuple[float, ...] | None:
        """The rounds of ``value``, or None where that was not measured."""
        for figures in self.figures:
            if (figures.scenario, figures.server) == (scenario, server):
                return figures.values.get(value)
        return None

    def servers(self, scenario: str) -> list[str]:
        return [figures.server for figures in self.figures if figures.scenario == scenario]


class Notebook:
    """Collects values while they are measured, in the order in which they come."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[str, list[float]]] = {}

    def add(self, scenario: str, server: str, **values: float) -> None:
        found = self._values.setdefault((scenario, server), {})
        for name, value in values.items():
            found.setdefault(name, []).append(value)

    def figures(self, order: Sequence[str] = ()) -> tuple[Figures, ...]:
        """What was added, the servers of each scenario in ``order``."""
        places = {server: place for place, server in enumerate(order)}
        keys = sorted(self._values, key=lambda key: places.get(key[1], len(places)))
        return tuple(
            Figures(scenario, server, {name: tuple(values) for name, values in self._values[scenario, server].items()})
            for scenario, server in keys
        )


def store(folder: Path, section: Section) -> Path:
    """Replace the stored result of ``section``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{section.name}.json"
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(section), indent=1))
    beside.replace(path)
    return path


def stored(folder: Path, names: Iterable[str]) -> dict[str, Section]:
    """The stored results among ``names``, in their order."""
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: msgspec.json.decode(path.read_bytes(), type=Section) for name, path in paths.items() if path.exists()}
