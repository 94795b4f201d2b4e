"""Who is at the other end of a connection, and that every way down the request line is told. # U1"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.serving import Server, Shelf, predict_bytes, score
from tests.transports.grpc.test_server import GRPC, Asker

from keelway.dataplane import DataPlane, InferenceCall
from keelway.edge.peers import peer_of
from keelway.types import NOBODY, Peer


class Transport(asyncio.BaseTransport):
    def __init__(self, name: Any) -> None:
        super().__init__({"peername": name})


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        (("192.0.2.7", 1234), Peer("192.0.2.7")),
        (("2001:db8::7", 1234, 0, 0), Peer("2001:db8::7")),
        (("::ffff:192.0.2.7", 1234, 0, 0), Peer("192.0.2.7")),
        (("fe80::1%eth0", 1234, 0, 2), Peer("fe80::1%eth0")),
        ("/run/keelway.sock", NOBODY),
        ("", NOBODY),
        (None, NOBODY),
    ],
)
def test_a_peer_is_its_address_without_the_port(name: Any, peer: Peer) -> None:
    assert peer_of(Transport(name)) == peer


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Peer]:
    """The peers that the request line was told of."""
    peers: list[Peer] = []
    infer = DataPlane.infer

    def noted(self: DataPlane, call: InferenceCall) -> Any:
        peers.append(call.peer)
        return infer(self, call)

    monkeypatch.setattr(DataPlane, "infer", noted)
    return peers


@pytest.fixture
def server(told: list[Peer]) -> Iterator[Server]:
    with Server(Shelf().serve("m", score), grpc=GRPC) as running:
        yield running


@pytest.mark.parametrize("query", ["", "?usual"], ids=["fast lane", "door"])
def test_rest_tells_the_peer(server: Server, told: list[Peer], query: str) -> None:
    with server.wire() as wire:
        for _ in range(3):
            reply = wire.ask(predict_bytes(path="/v1/models/m/predict" + query))
            assert reply.status == 200
    assert told == [Peer("127.0.0.1")] * 3
    assert all(peer is told[0] for peer in told), "one connection has one peer"


def test_grpc_tells_the_peer(server: Server, told: list[Peer]) -> None:
    with Asker(server) as asker:
        for _ in range(2):
            asker.infer()
    assert told == [Peer("127.0.0.1")] * 2
