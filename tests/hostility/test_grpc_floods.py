"""Floods on the gRPC port: rapid resets, settings, pings, empty frames, headers without an end, windows that never
open, streams and connections by the thousand. # G2 R3
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest
from hyperframe.frame import SettingsFrame
from tests.hostility.attack import Attack, Peer, sizes
from tests.hostility.grpc_peers import (
    GREETING,
    PREFACE,
    call,
    call_headers,
    data_frame,
    headers_frame,
    heard,
    infer_message,
    prefixed,
    raw_frame,
)

BLOCK = headers_frame(1, call_headers())[9:]

#: What is sent again and again, from the number of the turn.
FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid reset": lambda n: call(2 * n + 1, infer_message()) + raw_frame(3, 0, 2 * n + 1, b"\0\0\0\x08"),
    "reset before the body": lambda n: raw_frame(1, 4, 2 * n + 1, BLOCK) + raw_frame(3, 0, 2 * n + 1, b"\0\0\0\x08"),
    "settings": lambda n: raw_frame(4, 0, 0, struct.pack(">HI", 4, 65_535 + n)),
    "settings acknowledged": lambda n: raw_frame(4, 1, 0, b""),
    "pings": lambda n: raw_frame(6, 0, 0, struct.pack(">Q", n)),
    "window updates": lambda n: raw_frame(8, 0, 0, struct.pack(">I", 1)),
    "priorities": lambda n: raw_frame(2, 0, 2 * n + 1, struct.pack(">IB", 0, 1)),
    "empty DATA": lambda n: (headers_frame(1, call_headers()) if n == 0 else b"") + raw_frame(0, 0, 1, b""),
    "padding alone": lambda n: (
        (headers_frame(1, call_headers()) if n == 0 else b"") + raw_frame(0, 8, 1, b"\x40" + bytes(64))
    ),
    "CONTINUATION": lambda n: raw_frame(1, 0, 1, BLOCK) if n == 0 else raw_frame(9, 0, 1, b"\x00\x03x-a\x03abc" * 50),
    "empty CONTINUATION": lambda n: raw_frame(1, 0, 1, BLOCK) if n == 0 else raw_frame(9, 0, 1, b""),
    "one header a thousand times from the table": lambda n: raw_frame(
        1, 4, 2 * n + 1, BLOCK + b"\x40\x01a\x7f\xa1\x1e" + b"a" * 4000 + b"\xbe" * 1000
    ),
    "unknown frames": lambda n: raw_frame(0xEE, 0, 0, bytes(100)),
    "streams that stay open": lambda n: headers_frame(2 * n + 1, call_headers()),
    "calls": lambda n: call(2 * n + 1, infer_message()),
}


@sizes("turns", quick=300, slow=20_000)
@pytest.mark.usefixtures("breaks_the_protocol", "may_shed")
def test_floods_on_one_connection(grpc_attack: Attack, turns: int) -> None:
    """Sent without reading until the server has had enough of it or the flood is over."""
    for flood in FLOODS.values():
        peer = grpc_attack.connect(timeout=2.0)
        peer.send(GREETING)
        for start in range(0, turns, 100):
            if not peer.send(b"".join(map(flood, range(start, start + 100))), requests=100):
                break
        heard(grpc_attack, peer)
        peer.close()


@sizes("count", quick=300, slow=10_000)
def test_connections_opened_and_closed(grpc_attack: Attack, count: int) -> None:
    for number in range(count):
        peer = grpc_attack.connect()
        peer.send((b"", PREFACE, GREETING)[number % 3])
        (peer.close if number % 2 else peer.reset)()


@sizes("count", quick=200, slow=1000)
def test_idle_connections(grpc_attack: Attack, count: int) -> None:
    peers = [grpc_attack.connect() for _ in range(count)]
    for peer in peers:
        peer.send(GREETING)
    time.sleep(0.5)
    for peer in peers:
        peer.close()


@sizes("count", quick=10, slow=40)
@pytest.mark.usefixtures("may_shed")
def test_windows_that_never_open(grpc_attack: Attack, count: int) -> None:
    """Each asks for answers of 16 MB and lets no byte of them through."""
    closed = PREFACE + SettingsFrame(0, settings={4: 0}).serialize()
    body = large_message()
    peers: list[Peer] = []
    for _ in range(count):
        peer = grpc_attack.connect()
        peer.send(closed + b"".join(call(2 * n + 1, body) for n in range(2)), requests=2)
        peers.append(peer)
    time.sleep(1.0)
    for peer in peers:
        peer.close()


@sizes("count", quick=60, slow=300)
def test_slow_senders(grpc_attack: Attack, count: int) -> None:
    """The frame, its headers or its message comes byte by byte."""
    whole = GREETING + headers_frame(1, call_headers()) + data_frame(1, prefixed(infer_message()), end=True)
    peers = [grpc_attack.connect() for _ in range(count)]
    for position in range(len(whole)):
        for number, peer in enumerate(peers):
            if number % 3 == 0 or position < 40 * (number % 3):
                peer.send(whole[position : position + 1])
    time.sleep(0.2)
    for number, peer in enumerate(peers):
        if number % 3 == 0:
            assert heard(grpc_attack, peer, 0.02) == ["OK"]
        peer.close()


def large_message() -> bytes:
    from keelway.wire.open_inference_pb2 import ModelInferRequest

    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1])
    request = ModelInferRequest(model_name="large", inputs=[tensor], raw_input_contents=[b"\0\0\x80\x3f"])
    return bytes(request.SerializeToString())
