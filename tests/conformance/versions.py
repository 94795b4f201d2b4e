"""Which clients the suite is run with, as the table of ``docs/how-to/call-from-existing-clients.md``:
``python -m tests.conformance.versions`` prints it with the versions that are here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from tests.conformance import command_clients, environments
from tests.conformance.ways import WAYS, of


class Row(NamedTuple):
    """``pinned``: the version is the project's choice, not the machine's."""

    client: str
    speaks: str
    version: Callable[[], str]
    pinned: bool = True


#: What reaches the server in other ways than those of ``ways.py``.
OTHERS = [
    Row("grpcio-health-checking", "gRPC: Check, Watch", of("grpcio-health-checking")),
    Row("grpcio-reflection", "gRPC: reflection", of("grpcio-reflection")),
    Row("h2load", "gRPC raw, 1,000 calls at once", partial(command_clients.version, "h2load"), pinned=False),
    Row("Envoy", "all of them through it, HTTP/2 to the server", environments.envoy_version),
]
NOT_PINNED = ("urllib", "curl", "nghttp")


def rows() -> Iterator[Row]:
    """One for each client, in the order of ``WAYS``."""
    spoken: dict[str, dict[str, list[str]]] = {}
    for way in WAYS:
        spoken.setdefault(way.client, {}).setdefault(way.transport, []).append(way.encoding)
    versions = {way.client: way.version for way in WAYS}
    for client, transports in spoken.items():
        speaks = "; ".join(f"{transport} {', '.join(encodings)}" for transport, encodings in transports.items())
        yield Row(client, speaks, versions[client], client not in NOT_PINNED)
    yield from OTHERS


def table() -> str:
    lines = ["| client | version | speaks |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {row.client} | {row.version()} | {row.speaks} |" for row in rows())])


if __name__ == "__main__":
    print(table())
