"""Stored results as the page gets them, with figures that nobody measured: for tests alone."""

from __future__ import annotations

from benchmarks.guards import ARRIVALS, GUARDS
from benchmarks.lineup import CACHED, GRPC, LEADS, REST, Lineup
from benchmarks.results import Machine, Notebook, Section
from msgspec import structs

MACHINE = Machine("A Processor", 2, 15.6, "Linux 6.1", "CPython 3.11.7", 0.03)


def section(
    name: str, notebook: Notebook, versions: dict[str, str] | None = None, absent: dict[str, str] | None = None
) -> Section:
    figures = notebook.figures()
    when = "2026-01-02 03:04 UTC"
    return Section(name, when, "abc1234", MACHINE, 3, 2.0, versions or {}, figures, absent or {})


def served(name: str, lineup: Lineup, rates: dict[str, tuple[float, ...]]) -> Section:
    """``rates`` of each server, the same in every scenario."""
    notebook = Notebook()
    for server, values in rates.items():
        for rate in values:
            for scenario in lineup.scenarios:
                notebook.add(scenario.name, server, rate=rate, p50=1.25, p99=2.5)
            notebook.add("process", server, start=0.5, ready=100.0, ready_shared=80.0, loaded=110.0, loaded_shared=90.0)
    return section(name, notebook, {server: f"{server}-lib 1.2.3" for server in rates})


def rest(**changed: tuple[float, ...]) -> Section:
    rates = {
        "uvicorn, raw ASGI": (8000.0, 10000.0, 9000.0),
        "keelway": (6000.0, 7000.0, 6500.0),
        "FastAPI": (3000.0, 4000.0, 3000.0),
        "MLServer": (1000.0, 500.0, 800.0),
        "KServe": (500.0, 1000.0, 900.0),
    }
    return served("rest", REST, rates | changed)


def grpc() -> Section:
    return served("grpc", GRPC, {"grpc.aio, bare": (3000.0, 3000.0, 3000.0), "keelway": (2400.0, 2700.0, 2460.0)})


def leads() -> Section:
    return served("leads", LEADS, {"keelway": (900.0, 1000.0, 1100.0)})


def cache(key: float = 2.5) -> Section:
    one = served("cache", CACHED, {"uvicorn, constant answer": (10_000.0, 12_000.0), "keelway": (8_000.0, 9_000.0)})
    notebook = Notebook()
    for micros in (key, key + 1, key - 1):
        notebook.add("key", "keelway", key=micros)
    return structs.replace(one, figures=one.figures + notebook.figures())


def guard(added: float = 8.0) -> Section:
    notebook = Notebook()
    for scenario in ARRIVALS:
        for micros in (added, added + 1, added - 1):
            notebook.add(scenario, GUARDS, on=30.0 + micros, off=30.0, added=micros)
    return section("guard", notebook)


def small() -> dict[str, Section]:
    """The sections without servers."""
    python, command, workers, growth = Notebook(), Notebook(), Notebook(), Notebook()
    for theirs, ours in ((5000.0, 10.0), (6000.0, 10.0), (4000.0, 8.0)):
        python.add("forest (30 features)", "call", sklearn=theirs, converted=ours)
        command.add("help", "keelway", cpu=0.14)
    growth.add("growth", "keelway", requests=500123, before=100.0, after=101.0)
    for count, own, shared in ((1, 1000.0, 600.0), (4, 4000.0, 780.0)):
        workers.add("workers", f"{count}, own", pss=own)
        workers.add("workers", f"{count}, shared", pss=shared, row=18.0, row_own=15.0)
    found = {"python": python, "command": command, "workers": workers, "growth": growth}
    return {name: section(name, notebook) for name, notebook in found.items()}
