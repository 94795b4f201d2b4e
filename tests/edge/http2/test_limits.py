"""Floods on one HTTP/2 connection: each ends it, after a burst that no client with manners needs. # R3"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hpack import Encoder
from tests.edge.http2.peers import GREETING, Served, ended_with, resets

from keelway.edge.http2.frames import Http2Error, frame
from keelway.edge.http2.limits import CONCURRENT_STREAMS

BLOCK = Encoder().encode([(":method", "POST"), (":scheme", "http"), (":path", "/later")], huffman=False)
RESET = b"\0\0\0\x08"

#: What is sent again and again, from the number of the turn, and how often it may be at once.
FLOODS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "rapid reset": (lambda n: frame(1, 5, 2 * n + 1, BLOCK) + frame(3, 0, 2 * n + 1, RESET), 500),
    "resets that the server is made to send": (lambda n: frame(1, 5, 2 * n + 1, b"\x82"), 500),
    "SETTINGS": (lambda n: frame(4, 0, 0, struct.pack(">HI", 4, 65_535 + n)), 100),
    "SETTINGS acknowledged": (lambda n: frame(4, 1, 0), 100),
    "PING": (lambda n: frame(6, 0, 0, bytes(8)), 2000),
    "WINDOW_UPDATE": (lambda n: frame(8, 0, 0, b"\0\0\0\x01"), 20_000),
    "PRIORITY": (lambda n: frame(2, 0, 2 * n + 1, bytes(5)), 1000),
    "unknown frames": (lambda n: frame(0xEE, 0, 0, bytes(100)), 1000),
    "empty DATA": (lambda n: (frame(1, 4, 1, BLOCK) if n == 0 else b"") + frame(0, 0, 1), 100),
    "padding alone": (lambda n: (frame(1, 4, 1, BLOCK) if n == 0 else b"") + frame(0, 8, 1, b"\x40" + bytes(64)), 100),
    "CONTINUATION": (lambda n: frame(1, 0, 1, BLOCK) if n == 0 else frame(9, 0, 1, b"\x00\x01a\x01b" * 50), 32),
    "empty CONTINUATION": (lambda n: frame(1, 0, 1, BLOCK) if n == 0 else frame(9, 0, 1), 32),
}


@pytest.mark.parametrize(("flood", "burst"), FLOODS.values(), ids=FLOODS)
def test_a_flood_ends_the_connection(flood: Callable[[int], bytes], burst: int) -> None:
    served = Served()
    served.feed(GREETING)
    sent = 0
    while not served.transport.finished:
        assert sent <= burst + 1, "it goes on"
        said = served.feed(flood(sent))
        sent += 1
    assert ended_with(said) == Http2Error.ENHANCE_YOUR_CALM
    assert sent >= burst - 1, "so many may be by accident"
    assert not served.connection.streams
    served.close()


def test_what_was_spent_is_allowed_again_after_a_while() -> None:
    served = Served()
    served.feed(GREETING)
    for _ in range(20):
        for _ in range(10):
            served.feed(frame(4, 0, 0))
        served.wait(1)
    assert not served.transport.finished
    served.close()


def test_a_header_that_unfolds_a_thousandfold_ends_the_connection() -> None:
    served = Served()
    served.feed(GREETING)
    bomb = BLOCK + b"\x40\x01a\x7f\xa1\x1e" + b"a" * 4000 + b"\xbe" * 1000
    assert ended_with(served.feed(frame(1, 5, 1, bomb))) == Http2Error.ENHANCE_YOUR_CALM
    served.close()


def test_more_streams_than_were_announced_are_refused() -> None:
    served = Served()
    served.feed(GREETING)
    for number in range(CONCURRENT_STREAMS):
        served.feed(frame(1, 4, 2 * number + 1, BLOCK))
    beyond = 2 * CONCURRENT_STREAMS + 1
    assert resets(served.feed(frame(1, 4, beyond, BLOCK))) == {beyond: Http2Error.REFUSED_STREAM}
    served.close()


def test_answers_for_shut_windows_are_bounded() -> None:
    served = Served(times=1000)
    served.feed(GREETING + frame(4, 0, 0, struct.pack(">HI", 4, 0)))
    block = Encoder().encode([(":method", "POST"), (":scheme", "http"), (":path", "/echo")], huffman=False)
    said = b""
    for number in range(20):
        said += served.feed(frame(1, 4, 2 * number + 1, block) + frame(0, 1, 2 * number + 1, bytes(10_000)))
    assert served.connection.waiting_bytes < 80_000_000
    assert set(resets(said).values()) == {Http2Error.REFUSED_STREAM}
    served.close()
