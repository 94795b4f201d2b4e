"""Peers that are too slow, on real sockets: each is cut off in its time, with words where HTTP has some. # R3

All are slow at once, since each takes about as long as its limit; ``outcomes`` holds what became of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from tests.serving import Server, Shelf, Wire, predict_bytes, request_bytes, score, wait_until

from keelway import app
from keelway.contract.signature import Feature, ModelSignature
from keelway.edge import protocol
from keelway.edge.protocol import sweep_forever
from keelway.testing import FakeRuntime
from keelway.types import TensorSpec

HEADER_TIMEOUT = 0.3
BODY_TIMEOUT = 0.5
LINGER = 0.6
#: Seconds between two looks at all connections; the app's own second would make these tests slow.
INTERVAL = 0.05
LATE = 3.0

#: Four bytes in, 64 MB out: far more than the buffers of two sockets hold.
LARGE = ModelSignature(
    (Feature("x", "FP32"),), (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1, 1 << 24)),)
)
LARGE_REQUEST = request_bytes(
    "POST", "/v2/models/large/infer", np.zeros(1, np.float32).tobytes(), ("Inference-Header-Content-Length", "0")
)
LARGE_ANSWER = 4 << 24


class Outcome(NamedTuple):
    """The replies that a peer read until its connection closed, and how long that took."""

    statuses: list[int]
    seconds: float


def says_nothing(wire: Wire) -> None:
    """Connects, and that is all."""


def sends_half_a_head(wire: Wire) -> None:
    wire.send(b"GET /health/live HTTP/1.1\r\nHost: loc")


def drips_a_head(wire: Wire) -> None:
    wire.send(b"GET /health/live HTTP/1.1\r\n")
    for position in range(int(LATE / 0.1)):
        try:
            wire.send(b"X-%d: 1\r\n" % position)
        except ConnectionError:
            return
        time.sleep(0.1)


def sends_half_a_head_after_a_request(wire: Wire) -> None:
    wire.send(request_bytes("GET", "/health/live") + b"GET /hea")


def sends_an_empty_line_after_a_request(wire: Wire) -> None:
    wire.send(request_bytes("GET", "/health/live"))
    time.sleep(0.1)
    wire.send(b"\r\n")


def sends_half_a_head_behind_a_request_that_takes_long(wire: Wire) -> None:
    wire.send(predict_bytes(path="/v1/models/later/predict") + b"GET /hea")


def sends_half_a_body(wire: Wire) -> None:
    wire.send(predict_bytes()[:-10])


def sends_half_a_chunked_body(wire: Wire) -> None:
    head = request_bytes("POST", "/v2/models/m/infer", b"", ("Transfer-Encoding", "chunked"), length=False)
    wire.send(head + b"5\r\n{")


def sends_half_a_body_where_none_is_read(wire: Wire) -> None:
    wire.send(request_bytes("GET", "/health/live", b"", ("Content-Length", "10")))
    time.sleep(0.1)
    wire.send(b"1")


def goes_on_sending_behind_its_last_reply(wire: Wire) -> None:
    headers = [("Content-Type", "text/csv"), ("Connection", "close"), ("Content-Length", "100000")]
    wire.send(request_bytes("POST", "/v1/models/m/predict", b"", *headers, length=False))
    for _ in range(int(LATE / 0.05)):
        try:
            wire.send(b"more")
        except ConnectionError:
            return
        time.sleep(0.05)


def sends_half_a_body_to_the_repository(wire: Wire) -> None:
    wire.send(request_bytes("POST", "/v2/repository/index", b'{"ready": true}')[:-3])


PEERS: Mapping[Callable[[Wire], None], tuple[list[int], float]] = {
    says_nothing: ([], HEADER_TIMEOUT),
    sends_half_a_head: ([408], HEADER_TIMEOUT),
    drips_a_head: ([408], HEADER_TIMEOUT),
    sends_half_a_head_after_a_request: ([200, 408], HEADER_TIMEOUT),
    sends_an_empty_line_after_a_request: ([200, 408], HEADER_TIMEOUT),
    sends_half_a_head_behind_a_request_that_takes_long: ([200], HEADER_TIMEOUT),
    sends_half_a_body: ([408], BODY_TIMEOUT),
    sends_half_a_chunked_body: ([408], BODY_TIMEOUT),
    sends_half_a_body_where_none_is_read: ([200], BODY_TIMEOUT),
    goes_on_sending_behind_its_last_reply: ([415], LINGER),
    sends_half_a_body_to_the_repository: ([408], BODY_TIMEOUT),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    large = FakeRuntime(LARGE.inputs, LARGE.outputs, lambda inputs: {"y": np.zeros((1, 1 << 24), np.float32)})
    shelf = Shelf().serve("m", score).serve("later", lambda: score(delay=1.0)).serve("large", lambda: large, LARGE)
    limits = {"header_timeout": HEADER_TIMEOUT, "body_timeout": BODY_TIMEOUT, "keep_alive_timeout": 30.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "_LINGER", LINGER)
        patch.setattr(app, "sweep_forever", partial(sweep_forever, interval=INTERVAL))
        with Server(shelf, http=limits, batching={"warm_up_seconds": 0.0}) as running:
            yield running


class Errors(logging.Handler):
    """What is logged while all peers are watched, for which ``caplog`` does not live long enough."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(scope="module")
def outcomes(server: Server) -> Mapping[str, Outcome]:
    def watch(peer: Callable[[Wire], None]) -> Outcome:
        began = time.monotonic()
        with server.wire(timeout=2 * LATE) as wire:
            peer(wire)
            statuses = []
            try:
                while reply := wire.reply():
                    statuses.append(reply.status)
            except (ConnectionError, TimeoutError):
                pass
            return Outcome(statuses, time.monotonic() - began)

    errors = Errors(logging.ERROR)
    logging.getLogger().addHandler(errors)
    with ThreadPoolExecutor(len(PEERS)) as pool:
        seen = dict(zip((peer.__name__ for peer in PEERS), pool.map(watch, PEERS), strict=True))
    logging.getLogger().removeHandler(errors)
    assert errors.messages == []
    return seen


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.__name__)
def test_a_slow_peer_is_cut_off_in_its_time(outcomes: Mapping[str, Outcome], peer: Callable[[Wire], None]) -> None:
    statuses, limit = PEERS[peer]
    outcome = outcomes[peer.__name__]
    assert outcome.statuses == statuses
    assert limit <= outcome.seconds < limit + LATE


def test_slow_peers_leave_nothing_in_flight(outcomes: Mapping[str, Outcome], server: Server) -> None:
    assert outcomes
    assert server.in_flight() == 0


def test_a_reader_that_has_stopped_is_cut_off(server: Server) -> None:
    with server.wire() as wire:
        wire.send(LARGE_REQUEST)
        connections = server.app._server.server_state.connections  # type: ignore[union-attr]
        wait_until(lambda: connections, "the connection")
        wait_until(lambda: not connections, "its end")
        assert read_all(wire, pause=0) < LARGE_ANSWER
    assert server.in_flight() == 0


def test_a_slow_reader_that_goes_on_reading_gets_everything(server: Server) -> None:
    with server.wire() as wire:
        wire.send(LARGE_REQUEST.replace(b"Host", b"Connection: close\r\nHost", 1))
        assert read_all(wire, pause=0.04) > LARGE_ANSWER


def read_all(wire: Wire, pause: float) -> int:
    """Bytes read until the connection ended, with a ``pause`` in seconds after every 2 MB."""
    total = 0
    try:
        while data := wire.socket.recv(2 << 20, 0x100):  # MSG_WAITALL
            total += len(data)
            time.sleep(pause)
    except ConnectionError:
        pass
    return total
