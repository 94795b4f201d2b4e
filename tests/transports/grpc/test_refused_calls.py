"""What is kept of messages that nobody will look at: nothing. Anybody may send them, without credentials. # U1 R3"""

from __future__ import annotations

import asyncio
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

from keelway.edge.http2.frames import frame
from keelway.transports.grpc.calls import Crowd
from keelway.transports.grpc.framing import framed
from keelway.transports.grpc.health import INTERVAL, WATCH, Health
from keelway.transports.grpc.reflection import PATHS
from keelway.types import Peer
from keelway.wire.health_pb2 import HealthCheckRequest, HealthCheckResponse

STREAMS, FRAME, WINDOW = 24, 60_000, 1 << 20
BOMB = prefixed(gzip.compress(bytes(1 << 20)), 1)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Shelf().serve("m", score), grpc=GRPC, http={"body_timeout": 0.5}) as running:
        yield running


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


def test_watches_are_bounded_by_address_and_in_all() -> None:
    crowd = Crowd(most=3, each=2)
    here, there = Peer("192.0.2.1"), Peer("192.0.2.2")
    assert [crowd.join(here) for _ in range(3)] == [True, True, False]
    assert [crowd.join(there) for _ in range(2)] == [True, False]
    crowd.leave(here)
    assert [crowd.join(there), crowd.join(here)] == [True, False]


def test_one_watch_too_many_is_refused_until_another_ends(peer: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crowd, "join", lambda crowd, by: False)
    peer.sendall(begun(1, WATCH) + frame(0, 1, 1, framed(b"")))
    assert heard(peer, b"as many calls of this kind are open as may be")
    monkeypatch.undo()
    peer.sendall(begun(3, WATCH) + frame(0, 1, 3, framed(b"")))
    assert heard(peer, framed(b"\x08\x01"))


def test_watches_cost_nothing_while_nothing_changes_and_all_hear_of_a_change() -> None:
    looks, ready = [], True

    def looked() -> bool:
        looks.append(1)
        return ready

    async def watched(health: Health, closing: asyncio.Event) -> list[int]:
        return [answer.status async for answer in health.watch(HealthCheckRequest(), closing)]

    async def scene() -> list[list[int]]:
        nonlocal ready
        health, closing = Health((), looked), asyncio.Event()
        watching = [asyncio.create_task(watched(health, closing)) for _ in range(100)]
        await asyncio.sleep(0.05)
        looks.clear()
        await asyncio.sleep(3.5 * INTERVAL)
        assert len(looks) <= 4
        ready = False
        await asyncio.sleep(2 * INTERVAL)
        closing.set()
        heard = await asyncio.gather(*watching)
        assert health._looking is None
        return heard

    serving, not_serving = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
    assert asyncio.run(scene()) == [[serving, not_serving]] * 100
