"""Bytes on the one port, on real sockets: whole requests in any pieces are answered in order, anything else is refused
without harm to the next caller. # R3
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving import (
    ROW,
    GatedRuntime,
    Reply,
    Server,
    Shelf,
    Wire,
    predict_bytes,
    request_bytes,
    score,
    wait_until,
)

from keelway.edge.protocol import sweep_forever
from keelway.testing import FakeClock

HEAD_LIMIT = 4096
BODY = json.dumps({"instances": [ROW]}).encode()
CHUNKED = ("Transfer-Encoding", "chunked")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    shelf = Shelf().serve("m", score).serve("later", lambda: score(delay=0.1)).serve("gated", GatedRuntime)
    with Server(shelf, http={"max_header_bytes": HEAD_LIMIT}) as running:
        yield running


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with server.wire() as connection:
        yield connection


@pytest.fixture(autouse=True)
def _no_harm_done(server: Server, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a peer sends, nothing is left in flight, nothing is an error of the server's, the next is answered."""
    yield
    wait_until(lambda: server.in_flight() == 0, "requests in flight")
    assert server.post("/v1/models/m/predict", {"instances": [ROW]}).json["predictions"] == [3.0]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def chunked(*parts: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailers + b"\r\n"


def chunked_predict(body: bytes) -> bytes:
    return request_bytes("POST", "/v1/models/m/predict", body, CHUNKED, length=False)


def rest_of(wire: Wire) -> bytes:
    """Everything until the server closes the connection, or resets it because bytes were left unread."""
    parts = []
    try:
        while part := wire.socket.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


# Whole requests, however they arrive


def test_one_connection_takes_many_requests(wire: Wire) -> None:
    for _ in range(3):
        reply = wire.ask(predict_bytes())
        assert (reply.status, reply.json["predictions"]) == (200, [3.0])
        assert "connection" not in reply.headers


def test_a_caller_that_says_close_gets_its_answer_and_the_end(wire: Wire) -> None:
    assert wire.ask(predict_bytes(("Connection", "close"))).headers["connection"] == "close"
    assert wire.closed()


def test_an_http_1_0_request_is_answered_and_closed(wire: Wire) -> None:
    assert wire.ask(predict_bytes().replace(b"HTTP/1.1", b"HTTP/1.0")).status == 200
    assert wire.closed()


def test_pipelined_requests_are_answered_in_their_order(wire: Wire) -> None:
    rows = [{"age": float(number), "income": 0.0} for number in range(4)]
    paths = ["/v1/models/later/predict", "/v1/models/m/predict", "/v1/models/later/predict", "/v1/models/m/predict"]
    wire.send(b"".join(predict_bytes(path=path, row=row) for path, row in zip(paths, rows, strict=True)))
    replies = [wire.reply() for _ in rows]
    assert [reply and reply.json["predictions"] for reply in replies] == [[0.0], [1.0], [2.0], [3.0]]


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(1, 400), max_size=6), form=st.sampled_from(["declared", "chunked"]))
def test_a_request_may_arrive_in_any_pieces(server: Server, cuts: list[int], form: str) -> None:
    data = predict_bytes() if form == "declared" else chunked_predict(chunked(BODY[:7], BODY[7:8], BODY[8:]))
    edges = [0, *sorted(cut for cut in set(cuts) if cut < len(data)), len(data)]
    with server.wire() as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in itertools.pairwise(edges):
            wire.send(data[start:end])
        reply = wire.reply()
        assert reply is not None
        assert (reply.status, reply.json["predictions"]) == (200, [3.0])
        assert wire.ask(predict_bytes()).status == 200


def test_a_caller_that_expects_100_continue_is_told_to_go_on(wire: Wire) -> None:
    head, body = predict_bytes(("Expect", "100-continue")).split(b"\r\n\r\n")
    assert wire.ask(head + b"\r\n\r\n") == Reply(100, {}, b"")
    assert wire.ask(body, "POST").json["predictions"] == [3.0]


def test_a_caller_that_expects_100_continue_is_refused_before_it_sends_the_body(wire: Wire) -> None:
    head, _ = predict_bytes(("Expect", "100-continue"), ("Content-Type", "text/csv")).split(b"\r\n\r\n")
    assert wire.ask(head + b"\r\n\r\n").status == 415


def test_a_chunk_extension_and_a_trailer_are_ignored(wire: Wire) -> None:
    body = b"%x;name=value\r\n%b\r\n0\r\nHost: elsewhere.example\r\nX-Request-Timeout: no\r\n\r\n" % (len(BODY), BODY)
    assert wire.ask(chunked_predict(body)).json["predictions"] == [3.0]
    assert wire.ask(predict_bytes()).status == 200


@pytest.mark.parametrize("body", [b"", BODY], ids=["GET", "POST"])
def test_an_offer_to_upgrade_is_declined_and_the_request_answered(wire: Wire, body: bytes) -> None:
    offer = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAEAAEAAAAIAAAAB")]
    method, path = ("POST", "/v1/models/m/predict") if body else ("GET", "/health/ready")
    data = request_bytes(method, path, body, *offer)
    wire.send(data + data)
    assert [reply and reply.status for reply in (wire.reply(), wire.reply())] == [200, 200]
    assert wire.ask(predict_bytes()).status == 200


def test_an_offer_to_upgrade_does_not_cost_the_body_its_pieces(wire: Wire) -> None:
    data = request_bytes("POST", "/v1/models/m/predict", BODY, ("Connection", "Upgrade"), ("Upgrade", "h2c"))
    for byte in data:
        wire.send(bytes([byte]))
    reply = wire.reply()
    assert reply is not None
    assert reply.json["predictions"] == [3.0]


# Sizes


@pytest.mark.parametrize(
    "data",
    [
        request_bytes("GET", "/health/live", b"", ("X-Long", "a" * HEAD_LIMIT)),
        request_bytes("GET", "/health/live", b"", *[(f"X-{number}", "1") for number in range(1000)]),
        request_bytes("GET", "/" + "a" * HEAD_LIMIT),
        b"GET /" + b"a" * 2 * HEAD_LIMIT,
        b"GET /health/live HTTP/1.1\r\nX-Endless: " + b"a" * 2 * HEAD_LIMIT,
    ],
    ids=["one long header", "many headers", "a long path", "a path without an end", "a header without an end"],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_head_beyond_the_limit_is_refused(wire: Wire, data: bytes, pieces: int) -> None:
    wire.ask(request_bytes("GET", "/health/live"))
    size = len(data) // pieces + 1
    for start in range(0, len(data), size):
        wire.send(data[start : start + size])
        time.sleep(0.02 * (pieces - 1))  # so that the server reads each piece by itself
    assert rest_of(wire).startswith(b"HTTP/1.1 431 ")


def test_a_head_just_within_the_limit_is_taken(wire: Wire) -> None:
    data = predict_bytes(("X-Long", "a" * (HEAD_LIMIT - 200)))
    assert wire.ask(data).status == 200


def test_a_large_body_behind_a_small_head_is_no_large_head(wire: Wire) -> None:
    body = json.dumps({"instances": [ROW] * 2000}).encode()
    assert len(wire.ask(request_bytes("POST", "/v1/models/m/predict", body)).json["predictions"]) == 2000


@pytest.mark.parametrize("size", [0, HEAD_LIMIT * 2], ids=["small bodies", "large bodies"])
@pytest.mark.parametrize("cut", [3, 50])
def test_a_read_that_ends_inside_a_head_counts_that_head_alone(wire: Wire, size: int, cut: int) -> None:
    body = BODY + b" " * size
    request = request_bytes("POST", "/v1/models/m/predict", body)
    count = 5 * HEAD_LIMIT // len(request) + 2
    data = request * count
    wire.send(data + request[:cut])
    time.sleep(0.05)
    wire.send(request[cut:])
    assert [reply and reply.status for reply in (wire.reply() for _ in range(count + 1))] == [200] * (count + 1)


def test_chunks_larger_than_a_head_may_be_written_apart_from_their_sizes(wire: Wire) -> None:
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    chunk = b" " * HEAD_LIMIT * 2
    wire.send(chunked_predict(b""))
    for part in (BODY, chunk, chunk):
        wire.send(b"%x\r\n" % len(part))
        time.sleep(0.02)
        # The size of the next chunk comes with the end of this one, its bytes do not.
        wire.send(part + b"\r\n" + b"%x\r\n" % len(chunk))
        time.sleep(0.02)
        wire.send(chunk + b"\r\n")
        time.sleep(0.02)
    wire.send(b"0\r\n\r\n")
    reply = wire.reply()
    assert reply is not None
    assert reply.status == 200


@pytest.mark.parametrize("flood", [b"X-Trailer: 1\r\n", b"a"], ids=["many trailers", "a trailer without an end"])
@pytest.mark.parametrize("method", ["POST", "GET"], ids=["before the answer", "after the answer"])
def test_trailers_without_an_end_are_refused(wire: Wire, flood: bytes, method: str) -> None:
    path = "/v1/models/m/predict" if method == "POST" else "/health/live"
    wire.send(request_bytes(method, path, b"2\r\n{}\r\n0\r\nX: ", CHUNKED, length=False))
    if method == "GET":
        assert wire.reply("GET") is not None
    # More than the server takes in at one go, so that it must look twice.
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            wire.send(flood * (50_000 // len(flood)))
    answer = rest_of(wire)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("rest", [b"no chunk", b"0\r\nX: " + b"a" * 16 * HEAD_LIMIT, b"0\r\n\r\nnonsense"])
def test_what_comes_behind_a_last_reply_is_not_looked_at(wire: Wire, rest: bytes) -> None:
    headers = [CHUNKED, ("Connection", "close"), ("Content-Type", "text/csv")]
    refused = request_bytes("POST", "/v1/models/m/predict", b"2\r\n{}\r\n", *headers, length=False)
    assert wire.ask(refused).status == 415
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(rest), 10_000):
            wire.send(rest[start : start + 10_000])
    assert rest_of(wire) == b""


def test_one_connection_that_cannot_be_looked_at_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Connection:
        def __init__(self, broken: bool) -> None:
            self.broken = broken
            self.looked_at = 0
            self.transport = Transport()

        def sweep(self, now: float) -> None:
            self.looked_at += 1
            if self.broken:
                raise RuntimeError("anything")

    class Transport:
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    connections = {Connection(True), Connection(False)}

    async def scene() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sweep_forever(connections, FakeClock(), 0.01), 0.1)

    asyncio.run(scene())
    assert all(connection.looked_at > 1 for connection in connections)
    assert all(connection.transport.aborted == connection.broken for connection in connections)
    caplog.clear()


# What is not a request


SMUGGLED = request_bytes("GET", "/health/live")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 0\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length: 2, 2\r\n\r\n{}",
        b"Content-Length: +2\r\n\r\n{}",
        b"Content-Length: -2\r\n\r\n{}",
        b"Content-Length: 0x2\r\n\r\n{}",
        b"Content-Length: 99999999999999999999999999\r\n\r\n{}",
        b"Content-Length : 2\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}X0\r\n\r\n",
        b"X: a\r\n Content-Length: 2\r\n\r\n{}",
        b"X: a\rContent-Length: 2\r\n\r\n{}",
        b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        b"X: a\nContent-Length: 2\n\n{}",
        b"no colon here\r\n\r\n",
    ],
)
def test_a_head_that_two_servers_could_read_in_two_ways_is_refused(wire: Wire, headers: bytes) -> None:
    wire.send(b"POST /v1/models/m/predict HTTP/1.1\r\nHost: localhost\r\n" + headers + SMUGGLED)
    answer = rest_of(wire)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1, "what was smuggled was answered"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GET / HTTP/9.9\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://elsewhere.example/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost@elsewhere.example/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET relative HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0" * 100,
        b"{}\r\n\r\n",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_garbage_is_refused_and_the_connection_closed(wire: Wire, data: bytes) -> None:
    wire.send(data)
    assert rest_of(wire).startswith(b"HTTP/1.1 400 ")


WORDS = (
    *(b"POST ", b"OPTIONS * ", b"/predict", b"//", b"%ff", b"?", b"#", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b":", b"\0"),
    *(b"Host", b"localhost", b"Transfer-Encoding", b"chunked", b"Content-Length", b"0", b"5", b"{}"),
    *(b"Expect: 100-continue", b"Connection: Upgrade", b"Upgrade", b"h2c"),
)


@settings(max_examples=40)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(WORDS),
            max_size=30,
        ).map(b"".join),
    )
)
def test_no_bytes_break_the_server(server: Server, data: bytes) -> None:
    with server.wire() as wire:
        try:
            wire.send(data)
            wire.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        assert b"HTTP/1.1 5" not in rest_of(wire)


@pytest.mark.parametrize(
    "behind",
    [
        b"\0garbage\r\n\r\n",
        b"GET /" + b"a" * 2 * HEAD_LIMIT,
        request_bytes("POST", "/v1/models/m/predict", b"no chunk", CHUNKED, length=False),
    ],
    ids=["no request", "a head without an end", "a bad body"],
)
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_refused_behind_others_ends_the_connection_after_their_answers(
    wire: Wire, behind: bytes, count: int
) -> None:
    """Written at once, the refusal would stand in the place of the first answer."""
    wire.send(predict_bytes(path="/v1/models/later/predict") * count + behind + predict_bytes())
    answer = rest_of(wire)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 ") == count


def test_a_body_longer_than_declared_ends_the_connection(wire: Wire) -> None:
    wire.send(predict_bytes() + b"}}}}")
    assert rest_of(wire).startswith(b"HTTP/1.1 200 ")


def test_a_body_shorter_than_declared_is_never_run(server: Server, wire: Wire) -> None:
    before = server.metric("ml_requests_total", code="OK")
    wire.send(predict_bytes().replace(b"Content-Length: ", b"Content-Length: 1"))
    wire.close()
    wait_until(lambda: server.in_flight() == 0, "the request that left")
    assert server.metric("ml_requests_total", code="OK") == before


# Connections


def test_connections_beyond_the_limit_are_told_to_come_back() -> None:
    with Server(Shelf().serve("m", score), http={"max_connections": 2}) as server:
        with server.wire() as first, server.wire() as second:
            assert [wire.ask(predict_bytes()).status for wire in (first, second)] == [200, 200]
            with server.wire() as third:
                reply = third.reply()
                assert reply is not None
                assert (reply.status, reply.headers["retry-after"]) == (503, "1")
                assert third.closed()
            assert first.ask(predict_bytes()).status == 200
        wait_until(lambda: server.get("/health/live").status == 200, "a free connection")


@pytest.mark.parametrize("seconds", [0.4, 1.0])
def test_an_idle_connection_is_closed_after_its_time_and_not_before(seconds: float) -> None:
    with Server(Shelf().serve("m", score), http={"keep_alive_timeout": seconds}) as server, server.wire() as wire:
        assert wire.ask(predict_bytes()).status == 200
        wire.socket.settimeout(seconds / 2)
        with pytest.raises(TimeoutError):
            wire.socket.recv(1)
        wire.socket.settimeout(10)
        assert wire.socket.recv(1) == b""
