"""Slow clients by the hundred, all at once: their neighbour does not notice, and each is cut off in its time. # R3

That each kind of slowness has its limit is proved in ``tests/edge/test_slow_peers.py``; this is about their number.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

import pytest
from tests.hostility.attack import Attack, Peer, sizes
from tests.hostility.http_peers import CHUNKED, PREDICT, RIGHT
from tests.hostility.served import SETTINGS
from tests.serving import predict_bytes, request_bytes

#: Seconds: the longest limit, the server's second between two looks, and a busy machine.
END = max(SETTINGS["http"]["header_timeout"], SETTINGS["http"]["body_timeout"]) + 8.0
CHUNKED_HEAD = request_bytes("POST", PREDICT, b"", CHUNKED, length=False)
NEVER = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'

#: What each kind sends at once, and then bit by bit.
SLOW: dict[str, tuple[bytes, bytes]] = {
    "never says a word": (b"", b""),
    "sends a head byte by byte": (b"", RIGHT["rows"][:100]),
    "sends headers without an end": (b"GET /health/live HTTP/1.1\r\n", b"X: 1\r\n"),
    "sends a body byte by byte": (predict_bytes()[:-20], b" "),
    "sends one-byte chunks": (CHUNKED_HEAD, b"1\r\n \r\n"),
    "sends a chunk extension without an end": (CHUNKED_HEAD + b"1;", b"a"),
    "sends trailers without an end": (CHUNKED_HEAD + b"2\r\n{}\r\n0\r\n", b"X: 1\r\n"),
    "sends half a body to the repository": (request_bytes("POST", "/v2/repository/index", b"{    }")[:-3], b""),
    "waits to be told to go on": (predict_bytes(("Expect", "100-continue")).split(b"{")[0], b""),
    "opens a second request": (predict_bytes() + b"POST ", b""),
}


def ended(peers: list[Peer], between: Callable[[list[Peer]], None]) -> int:
    """How many of ``peers`` the server ends within ``END`` seconds; ``between`` is done again and again meanwhile."""
    left = {peer.socket.fileno(): peer for peer in peers}
    watch = select.poll()
    for number in left:
        watch.register(number, select.POLLIN | select.POLLHUP)
    end = time.monotonic() + END
    while left and time.monotonic() < end:
        for number, _ in watch.poll(50):
            data = left[number].read(1 << 16)
            left[number].answered(data)
            if not data:
                watch.unregister(number)
                left.pop(number).close()
        between(list(left.values()))
    for peer in left.values():
        peer.close()
    return len(peers) - len(left)


@sizes("each", quick=25, slow=45)
def test_slow_senders(attack: Attack, each: int) -> None:
    peers: dict[Peer, bytes] = {}
    for first, bit in SLOW.values():
        for _ in range(each):
            peer = attack.connect()
            peer.send(first, requests=1)
            peers[peer] = bit
    turn = 0

    def drip(left: list[Peer]) -> None:
        nonlocal turn
        for peer in left:
            bit = peers[peer]
            peer.send(bit[turn % len(bit) :][:1] if bit else b"")
        turn += 1

    assert ended(list(peers), drip) == len(peers)


@pytest.mark.slow
def test_readers_that_have_stopped(attack: Attack) -> None:
    """Each leaves an answer of 16 MB lying."""
    peers = [attack.connect() for _ in range(25)]
    for peer in peers:
        peer.send(request_bytes("POST", "/v2/models/large/infer", NEVER), requests=1)
    time.sleep(END - 2.0)
    for peer in peers:
        assert len(peer.rest()) < 1 << 24, "an answer that nobody read was kept"
        peer.close()


@pytest.mark.slow
@pytest.mark.usefixtures("may_shed")
def test_half_bodies_for_every_permit(attack: Attack) -> None:
    """More of them than requests may be answered at once: the neighbour is told to come back, and soon may."""
    peers = [attack.connect() for _ in range(SETTINGS["limits"]["max_in_flight"] + 40)]
    for peer in peers:
        peer.send(predict_bytes()[:-5], requests=1)
    assert ended(peers, lambda left: None) == len(peers)
