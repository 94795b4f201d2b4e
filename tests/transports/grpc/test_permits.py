"""Permits of calls: taken when the headers have come, and given back however the call ends. # T2 R5"""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator

import pytest
from hpack import Encoder
from tests.serving import Server, Shelf, score, wait_until
from tests.transports.grpc.test_server import GRPC, INFER, Asker, infer_bytes

from keelway.edge.http2.frames import frame
from keelway.transports.grpc.framing import framed

HEADERS = [(":method", "POST"), (":scheme", "http"), (":path", INFER), ("content-type", "application/grpc")]


@pytest.fixture
def server() -> Iterator[Server]:
    limits = {"http": {"body_timeout": 0.5}, "limits": {"max_in_flight": 1}}
    with Server(Shelf().serve("m", score), grpc=GRPC, **limits) as running:
        yield running


def begun(*more: tuple[str, str]) -> bytes:
    return frame(1, 4, 1, Encoder().encode([*HEADERS, *more], huffman=False))


def heard(peer: socket.socket, words: bytes) -> bool:
    said = b""
    while words not in said:
        part = peer.recv(10_000)
        if not part:
            return False
        said += part
    return True


def test_headers_alone_take_a_permit_and_a_reset_gives_it_back(server: Server, peer: socket.socket) -> None:
    peer.sendall(begun())
    wait_until(lambda: server.in_flight() == 1, "the permit to be taken")
    peer.sendall(frame(3, 0, 1, b"\0\0\0\x08"))
    wait_until(lambda: server.in_flight() == 0, "the permit to be back")


def test_a_message_that_never_comes_is_not_waited_for(server: Server, peer: socket.socket) -> None:
    peer.sendall(begun() + frame(0, 0, 1, framed(infer_bytes("m"))[:9]))
    wait_until(lambda: server.in_flight() == 1, "the permit to be taken")
    assert heard(peer, b"the message did not come in time")
    assert server.in_flight() == 0


@pytest.mark.parametrize(
    "body", [b"", b"\0\0", framed(b"\xff\xff"), b"\x09" + framed(b"")[1:], framed(infer_bytes("nobody"))]
)
def test_a_call_that_is_refused_gives_its_permit_back(server: Server, peer: socket.socket, body: bytes) -> None:
    peer.sendall(begun() + frame(0, 1, 1, body))
    assert heard(peer, b"grpc-message")
    assert server.in_flight() == 0
    with Asker(server) as asker:
        assert asker.infer().model_name == "m"


def test_a_connection_that_is_lost_gives_its_permits_back(server: Server, peer: socket.socket) -> None:
    peer.sendall(begun())
    wait_until(lambda: server.in_flight() == 1, "the permit to be taken")
    peer.close()
    wait_until(lambda: server.in_flight() == 0, "the permit to be back")


@pytest.mark.parametrize("body", [framed(infer_bytes("m")), framed(infer_bytes("nobody")), b"none"])
def test_an_answered_call_is_forgotten_without_the_collector(server: Server, peer: socket.socket, body: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        for number in range(1, 20, 2):
            peer.sendall(frame(1, 4, number, Encoder().encode(HEADERS, huffman=False)) + frame(0, 1, number, body))
            assert heard(peer, b"grpc-status")
        wait_until(lambda: server.in_flight() == 0, "the permit to be back")
        left = ("Stream", "InferenceExchange", "Waiting", "Passage")
        assert sum(type(thing).__name__ in left for thing in gc.get_objects()) <= 4
    finally:
        gc.enable()
