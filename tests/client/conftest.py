"""One real server with the conformance models for the whole suite, and fakes for faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.client.callers import Way
from tests.client.fakes import Fake, FakeRest, FakeRpc
from tests.conformance.models import shelf
from tests.serving import Server, forest_item


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    source = shelf().put("forest", "1.0.0", forest_item()).want("forest", "1.0.0")
    with Server(source, grpc={"address": "127.0.0.1:0"}) as running:
        yield running


@pytest.fixture
def url(server: Server, way: Way) -> str:
    """The address of ``server`` for that way to call."""
    return server.url if way.scheme == "rest" else f"grpc://{server.grpc}"


@pytest.fixture
def fake(way: Way) -> Iterator[Fake]:
    made = FakeRest() if way.scheme == "rest" else FakeRpc()
    yield made
    made.close()
