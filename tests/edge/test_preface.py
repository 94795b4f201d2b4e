"""The first look at a connection: HTTP/1.1 and HTTP/2 on one port, told apart by their first bytes. # R1 G2 R3"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import grpc
import pytest
from tests.serving import Server, Shelf, Wire, request_bytes, score, wait_until
from tests.transports.grpc.test_server import INFER, Asker, infer_bytes

from keelway.edge.http2.frames import PREFACE
from keelway.wire.open_inference_pb2 import ModelInferResponse


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Shelf().serve("m", score), http={"header_timeout": 0.3, "max_connections": 5}) as running:
        assert running.grpc == ""
        running.grpc = f"127.0.0.1:{running.port}"
        yield running


def test_grpc_is_answered_on_the_http_port(server: Server) -> None:
    with Asker(server) as asker:
        assert asker.infer().model_name == "m"
        assert server.get("/health/live").status == 200
        assert asker.infer().model_name == "m"
    assert server.metric("ml_requests_total", model="m", transport="grpc_v2", code="OK") == 2


def test_with_a_port_of_its_own_both_ports_answer() -> None:
    with Server(Shelf().serve("m", score), grpc={"address": "127.0.0.1:0"}) as server:
        for address in (server.grpc, f"127.0.0.1:{server.port}"):
            with grpc.insecure_channel(address) as channel:
                reply = channel.unary_unary(INFER)(infer_bytes("m"), timeout=10)
                assert ModelInferResponse.FromString(reply).model_name == "m"


@pytest.mark.parametrize("first", [1, 3, 23])
def test_a_greeting_in_pieces_is_still_one(server: Server, first: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
        peer.sendall(PREFACE[:first])
        time.sleep(0.05)
        peer.sendall(PREFACE[first:] + b"\0\0\0\x04\0\0\0\0\0")
        assert peer.recv(1000)[3] == 4  # SETTINGS


@pytest.mark.parametrize("first", [1, 2])
def test_a_request_that_begins_like_a_greeting_is_still_one(server: Server, first: int) -> None:
    """PROPFIND begins with the letters of PRI, PUT with the first of them."""
    with server.wire() as wire:
        request = request_bytes("PUT" if first == 1 else "PROPFIND", "/health/live")
        wire.send(request[:first])
        time.sleep(0.05)
        wire.send(request[first:])
        reply = wire.reply()
        assert reply is not None
        assert reply.status in (400, 405)


@pytest.mark.parametrize("data", [b"", b"P", PREFACE[:-1]])
def test_who_says_too_little_is_not_waited_for(server: Server, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
        peer.sendall(data)
        assert peer.recv(100) == b""


def test_connections_of_both_kinds_are_counted_together(server: Server) -> None:
    with Asker(server) as asker:
        asker.infer()
        wires = [Wire(server.port) for _ in range(4)]
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
                assert peer.recv(100).startswith(b"HTTP/1.1 503")
        finally:
            for wire in wires:
                wire.close()


def test_a_call_under_way_on_the_http_port_finishes_before_the_server_stops() -> None:
    with Server(Shelf().serve("later", lambda: score(delay=0.5))) as server:
        server.grpc = f"127.0.0.1:{server.port}"
        with Asker(server) as asker:
            call = asker.start("later")
            wait_until(lambda: server.in_flight() == 1, "the call")
            server.begin_drain()
            assert ModelInferResponse.FromString(call.result()).model_name == "later"
        server.wait_stopped()


def test_a_call_on_the_http_port_that_outlasts_the_drain_is_cut_off() -> None:
    settings = {"drain_delay": 0.0, "drain_timeout": 0.3}
    with Server(Shelf().serve("later", lambda: score(delay=5.0)), serving=settings) as server:
        server.grpc = f"127.0.0.1:{server.port}"
        with Asker(server) as asker:
            call = asker.start("later")
            wait_until(lambda: server.in_flight() == 1, "the call")
            server.begin_drain()
            assert call.exception(10).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        server.wait_stopped()
