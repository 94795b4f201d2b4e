"""One server for all attacks, a neighbour and a ledger around each, and the totals at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.hostility import grpc_peers
from tests.hostility.attack import Attack
from tests.hostility.http_peers import says
from tests.hostility.ledger import Ledger
from tests.hostility.neighbour import GrpcNeighbour, Neighbour
from tests.hostility.served import Attacked
from tests.serving import ask, predict_bytes

TOTALS, IDLE = "attack", "idle"


@pytest.fixture(scope="package")
def attacked() -> Iterator[Attacked]:
    with Attacked() as server:
        warm_up(server)
        yield server


def warm_up(server: Attacked) -> None:
    """What a server keeps from its first requests on is no leak."""
    attack = Attack("warm-up", server.port)
    for path in ("/nowhere", "/v2/nowhere", "/metrics", "/openapi.json"):
        ask(server.url + path, "GET", headers={"accept": "application/openmetrics-text"})
    says(attack, b"no request")
    with Neighbour(server.port) as neighbour, GrpcNeighbour(server.grpc_port) as other:
        for model in ("m", "later", "gated"):
            with attack.peer() as peer:
                peer.send(predict_bytes(("Connection", "close"), path=f"/v1/models/{model}/predict"))
                assert peer.rest()
        grpc_peers.says(Attack("warm-up", server.grpc_port), b"no frame")
    assert neighbour.harm + other.harm == []


@pytest.fixture
def attack(attacked: Attacked, request: pytest.FixtureRequest, record_property: Any) -> Iterator[Attack]:
    """An attack on the HTTP port."""
    with watched(attacked, attacked.port, request, record_property) as attack:
        yield attack


@pytest.fixture(params=["own port", "http port"])
def grpc_attack(attacked: Attacked, request: pytest.FixtureRequest, record_property: Any) -> Iterator[Attack]:
    """An attack on the gRPC port, and the same on the HTTP port, where gRPC is spoken too."""
    port = attacked.grpc_port if request.param == "own port" else attacked.port
    with watched(attacked, port, request, record_property) as attack:
        yield attack


@contextmanager
def watched(attacked: Attacked, port: int, request: pytest.FixtureRequest, record_property: Any) -> Iterator[Attack]:
    """An attack under the eyes of a neighbour at each port, and with a ledger around it."""
    ledger = Ledger(attacked)
    attack = Attack(request.node.name.removeprefix("test_"), port)
    may_be_shed = "may_shed" in request.fixturenames
    with Neighbour(attacked.port, may_be_shed) as rest, GrpcNeighbour(attacked.grpc_port, may_be_shed) as grpc:
        yield attack
        attack.end()
    after = ledger.settle()
    totals = attack.totals() | {
        "neighbours": dict(rest.answers + grpc.answers),  # plain: reports of other processes are written down
        "memory": after.memory - ledger.before.memory,
        "objects": after.objects - ledger.before.objects,
    }
    record_property(TOTALS, totals)
    assert rest.harm + grpc.harm == []
    assert rest.answers["200"] > 0, "the neighbour never got a word in"
    assert grpc.answers["OK"] or may_be_shed, "the neighbour at the gRPC port never got a word in"
    own = {"INTERNAL"} if "breaks_the_protocol" in request.fixturenames else set()
    assert attack.failures().keys() <= own


@pytest.fixture
def may_shed() -> None:
    """The attack may take all the room there is, so that the neighbour is told to come back."""


@pytest.fixture
def breaks_the_protocol() -> None:
    """gRPC itself says INTERNAL to what breaks its framing: headers that cannot be unpacked, compression that was not
    agreed on. No call has begun by then; that none failed for the server's part is in the ledger."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    properties = [
        told
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for told in report.user_properties
    ]
    crowds = [value for name, value in properties if name == IDLE]
    if crowds:
        terminalreporter.section("idle connections", bold=True)
    for crowd in crowds:
        terminalreporter.line(crowd)
    lines = [value for name, value in properties if name == TOTALS]
    if lines:
        terminalreporter.section("attacks", bold=True)
    for line in lines:
        answers = ", ".join(f"{count:,} × {answer}" for answer, count in line["answers"].items()) or "none"
        terminalreporter.line(
            f"{line['attack']}: {line['connections']:,} connections, {line['requests']:,} requests, "
            f"{line['bytes']:,} bytes; answers: {answers}; neighbours: {sum(line['neighbours'].values()):,} answers; "
            f"left over: {line['memory'] / 1e6:+.1f} MB, {line['objects']:+,} objects"
        )
