"""Where the transports are: on ports of their own, or behind a proxy. Every test of the suite that asks for a server
runs over each; a new topology joins as one more entry of ``TOPOLOGIES``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
from tests.conformance.clients import Addresses
from tests.conformance.envoy import envoy
from tests.conformance.server import ServerProcess


class Topology(NamedTuple):
    """``grpc`` are the settings of that section. ``proxied``: Envoy stands in front, which is installed on demand."""

    name: str
    grpc: Mapping[str, Any]
    proxied: bool = False


class Served(NamedTuple):
    addresses: Addresses
    #: Tells the server to stop, in order.
    terminate: Callable[[], None]


TOPOLOGIES = [
    Topology("two ports", {"address": "127.0.0.1:0"}),
    Topology("one port", {"address": ""}),
    Topology("Envoy", {"address": "127.0.0.1:0"}, proxied=True),
]

#: For a fixture: one server for each.
EACH_TOPOLOGY = [
    pytest.param(topology, id=topology.name, marks=[pytest.mark.slow] if topology.proxied else [])
    for topology in TOPOLOGIES
]


@contextmanager
def served(topology: Topology, **settings: Mapping[str, Any]) -> Iterator[Served]:
    """A server of the models of ``models.py`` in ``topology``. ``settings`` are further sections."""
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(grpc=topology.grpc, **settings))
        addresses = server.addresses
        if topology.proxied:
            addresses = stack.enter_context(envoy(addresses))
        yield Served(addresses, server.terminate)
