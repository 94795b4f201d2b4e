"""One server for the whole suite, the clients connected to it, and the matrix of what passed at the end of a run."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conformance.clients import Addresses
from tests.conformance.topologies import EACH_TOPOLOGY, Topology, served
from tests.conformance.ways import Way

#: The key of a test's property that says which client it used.
CLIENT = "conformance client"


@pytest.fixture(scope="package", params=EACH_TOPOLOGY)
def topology(request: pytest.FixtureRequest) -> Topology:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="package")
def server(topology: Topology) -> Iterator[Addresses]:
    with served(topology, limits={"max_rows": 2000}) as running:
        yield running.addresses


@pytest.fixture(scope="package")
def connect(server: Addresses) -> Iterator[Callable[[Way], Any]]:
    """A function from a way to its client, opened when first asked for."""
    opened: dict[Way, Any] = {}
    with contextlib.ExitStack() as stack:

        def connected(way: Way) -> Any:
            if way not in opened:
                opened[way] = stack.enter_context(contextlib.closing(way.open(server)))
            return opened[way]

        yield connected


@pytest.fixture
def record_client(record_property: Callable[[str, object], None], topology: Topology) -> Callable[[Way], None]:
    """Says in the test's report which client it used, and how it reached the server."""

    def record(way: Way) -> None:
        record_property(CLIENT, [topology.name, way.client, way.version(), f"{way.transport} {way.encoding}"])

    return record


@pytest.fixture
def client(way: Way, connect: Callable[[Way], Any], record_client: Callable[[Way], None]) -> Any:
    record_client(way)
    return connect(way)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """For each topology, clients by transports and encodings: passed of all that were tried."""
    passed, tried = Counter[Any](), Counter[Any]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for key, value in getattr(report, "user_properties", ()):
                if key == CLIENT and (report.when == "call" or outcome == "failed"):
                    tried[tuple(value)] += 1
                    passed[tuple(value)] += outcome == "passed"
    columns = [f"{t} {e}" for t, e in (("REST", "json"), ("REST", "binary"), ("gRPC", "typed"), ("gRPC", "raw"))]
    for topology in dict.fromkeys(key[0] for key in tried):
        terminalreporter.section(f"conformance over {topology}: cases passed, of those tried")
        terminalreporter.line(f"{'client':<24}{'version':<10}" + "".join(f"{column:>14}" for column in columns))
        for client, version in dict.fromkeys(key[1:3] for key in tried if key[0] == topology):
            keys = [(topology, client, version, column) for column in columns]
            cells = [f"{passed[key]}/{tried[key]}" if tried[key] else "-" for key in keys]
            terminalreporter.line(f"{client:<24}{version:<10}" + "".join(f"{cell:>14}" for cell in cells))
