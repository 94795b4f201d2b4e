"""One server for the whole suite, the clients connected to it, and the matrix of what passed at the end of a run."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conformance.clients import Addresses
from tests.conformance.server import ServerProcess
from tests.conformance.ways import Way

#: The key of a test's property that says which client it used.
CLIENT = "conformance client"


@pytest.fixture(scope="package")
def server() -> Iterator[Addresses]:
    with ServerProcess(limits={"max_rows": 2000}) as running:
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
def record_client(record_property: Callable[[str, object], None]) -> Callable[[Way], None]:
    """Says in the test's report which client it used."""
    return lambda way: record_property(CLIENT, [way.client, way.version(), f"{way.transport} {way.encoding}"])


@pytest.fixture
def client(way: Way, connect: Callable[[Way], Any], record_client: Callable[[Way], None]) -> Any:
    record_client(way)
    return connect(way)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Clients by transports and encodings: passed of all that were tried."""
    passed, tried = Counter[Any](), Counter[Any]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for key, value in getattr(report, "user_properties", ()):
                if key == CLIENT and (report.when == "call" or outcome == "failed"):
                    client, version, column = value
                    tried[client, version, column] += 1
                    passed[client, version, column] += outcome == "passed"
    if not tried:
        return
    columns = [f"{t} {e}" for t, e in (("REST", "json"), ("REST", "binary"), ("gRPC", "typed"), ("gRPC", "raw"))]
    terminalreporter.section("conformance: cases passed, of those tried")
    terminalreporter.line(f"{'client':<28}{'version':<10}" + "".join(f"{column:>14}" for column in columns))
    for client, version in dict.fromkeys(key[:2] for key in tried):
        cells = [
            f"{passed[client, version, column]}/{tried[client, version, column]}"
            if tried[client, version, column]
            else "-"
            for column in columns
        ]
        terminalreporter.line(f"{client:<28}{version:<10}" + "".join(f"{cell:>14}" for cell in cells))
