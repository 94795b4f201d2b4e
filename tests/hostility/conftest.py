"""One server for all attacks, a neighbour and a ledger around each, and the totals at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.hostility.attack import Attack
from tests.hostility.http_peers import says
from tests.hostility.ledger import Ledger
from tests.hostility.neighbour import Neighbour
from tests.hostility.served import Attacked
from tests.serving import ask, predict_bytes

TOTALS = "attack"


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
    with Neighbour(server.port) as neighbour:
        for model in ("m", "later", "gated"):
            with attack.peer() as peer:
                peer.send(predict_bytes(("Connection", "close"), path=f"/v1/models/{model}/predict"))
                assert peer.rest()
    assert neighbour.harm == []


@pytest.fixture
def attack(attacked: Attacked, request: pytest.FixtureRequest, record_property: Any) -> Iterator[Attack]:
    """An attack under the eyes of a neighbour. ``@pytest.mark.usefixtures("may_shed")``: it may take all the room."""
    ledger = Ledger(attacked)
    attack = Attack(request.node.name.removeprefix("test_"), attacked.port)
    with Neighbour(attacked.port, may_be_shed="may_shed" in request.fixturenames) as neighbour:
        yield attack
        attack.end()
    after = ledger.settle()
    record_property(
        TOTALS,
        {
            **attack.totals(),
            "neighbour": dict(neighbour.answers),
            "memory": after.memory - ledger.before.memory,
            "objects": after.objects - ledger.before.objects,
        },
    )
    assert neighbour.harm == []
    assert neighbour.answers["200"] > 0, "the neighbour never got a word in"
    assert attack.failures() == {}


@pytest.fixture
def may_shed() -> None:
    """The attack may take all the room there is, so that the neighbour is told to come back."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, value in report.user_properties
        if name == TOTALS
    ]
    if lines:
        terminalreporter.section("attacks", bold=True)
    for line in lines:
        answers = ", ".join(f"{count:,} × {answer}" for answer, count in line["answers"].items()) or "none"
        terminalreporter.line(
            f"{line['attack']}: {line['connections']:,} connections, {line['requests']:,} requests, "
            f"{line['bytes']:,} bytes; answers: {answers}; neighbour: {sum(line['neighbour'].values()):,} answers; "
            f"left over: {line['memory'] / 1e6:+.1f} MB, {line['objects']:+,} objects"
        )
