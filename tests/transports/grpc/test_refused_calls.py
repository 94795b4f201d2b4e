"""What is kept of messages that nobody will look at: nothing. Anybody may send them, without credentials. # U1 R3"""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hpack import Encoder
from tests.serving import Server, Shelf, score
from tests.transports.grpc.test_framing import prefixed
from tests.transports.grpc.test_permits import heard
from tests.transports.grpc.test_server import GRPC

from keelway.edge.http2.frames import PREFACE, frame, settings_frame
from keelway.transports.grpc.framing import framed
from keelway.transports.grpc.health import WATCH
from keelway.transports.grpc.reflection import PATHS

STREAMS, FRAME, WINDOW = 24, 60_000, 1 << 20
BOMB = prefixed(gzip.compress(bytes(1 << 20)), 1)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Shelf().serve("m", score), grpc=GRPC, http={"body_timeout": 0.5}) as running:
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[socket.socket]:
    host, _, port = server.grpc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as opened:
        opened.sendall(PREFACE + settings_frame(()))
        yield opened


def begun(number: int, path: str) -> bytes:
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    return frame(1, 4, number, Encoder().encode([*headers, ("grpc-encoding", "gzip")], huffman=False))


@pytest.mark.parametrize("more", [framed(b"\n\x0akeelway.v1"), b"\x09" * FRAME, BOMB], ids=["good", "none", "packed"])
def test_a_watch_keeps_nothing_of_what_comes_behind_its_message(peer: socket.socket, more: bytes) -> None:
    part = more * (FRAME // len(more))
    frames = (WINDOW - 1000) // len(part) if more is not BOMB else 2
    peer.sendall(b"".join(begun(2 * n + 1, WATCH) + frame(0, 0, 2 * n + 1, framed(b"")) for n in range(STREAMS)))
    assert heard(peer, b"grpc")
    time.sleep(0.2)
    tracemalloc.start()
    try:
        for n in range(STREAMS):
            for _ in range(frames):
                peer.sendall(frame(0, 0, 2 * n + 1, part))
        peer.sendall(frame(6, 0, 0, b"are you?"))
        assert heard(peer, b"are you?")
        assert tracemalloc.get_traced_memory()[0] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("path", [WATCH, PATHS[0]])
def test_a_call_that_is_no_inference_takes_small_messages_only(peer: socket.socket, path: str) -> None:
    peer.sendall(begun(1, path) + frame(0, 0, 1, framed(bytes(100_000))[:1000]))
    assert heard(peer, b"the message is larger than max")


def test_a_message_of_a_stream_that_never_ends_is_not_waited_for(peer: socket.socket) -> None:
    peer.sendall(begun(1, PATHS[0]) + frame(0, 0, 1, framed(bytes(1000))[:500]))
    assert heard(peer, b"the message did not come in time")
