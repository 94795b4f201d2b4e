"""Finding out who calls, where that fails or takes long: callers hear of it in their time, on every way in. # U1 R3"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from hpack import Encoder
from tests.credentials import JWT, KEYS, Published, jwk, token
from tests.serving import Server, Shelf, score, wait_until
from tests.transports.grpc.test_permits import HEADERS, heard
from tests.transports.grpc.test_server import GRPC, INFER, Asker, infer_bytes
from tests.transports.test_credentials import Way, bearer, call, door, lane, rest

from keelway.dataplane import DataPlane
from keelway.edge.http2.frames import PREFACE, frame, settings_frame
from keelway.guard.auth import Guarded
from keelway.guard.jwks import PublishedKeys
from keelway.transports.grpc.framing import framed

WAYS = pytest.mark.parametrize("way", [lane, door, call], ids=["fast lane", "door", "grpc"])
PATIENCE = 0.4


@pytest.fixture
def server(issuer: Published) -> Iterator[Server]:
    jwt = {**JWT, "algorithms": ["RS256"], "jwks_url": issuer.url, "jwks_pause": 0.01}
    sections = {"auth": {**KEYS, "max_failures": 10**6}, "jwt": jwt, "limits": {"request_timeout": PATIENCE}}
    with Server(Shelf().serve("m", score), grpc=GRPC, **sections) as running:
        wait_until(lambda: issuer.asked, "the first fetch")
        time.sleep(0.1)
        yield running


def guard(server: Server) -> Guarded:
    guarded = server.app._callers.authenticator
    assert isinstance(guarded, Guarded)
    return guarded


def unknown(name: str = "unknown") -> tuple[str, str]:
    return bearer(token("RS256", kid=name))


def nobody_waits(server: Server) -> bool:
    published = guard(server).tokens.published  # type: ignore[union-attr]
    return guard(server)._introductions.waiting == 0 and not published._waiting  # type: ignore[union-attr]


@WAYS
@pytest.mark.parametrize(("kind", "what"), [(Guarded, "_find"), (PublishedKeys, "renewed")])
def test_what_nobody_has_foreseen_is_an_answer_without_a_word_of_it(
    server: Server, way: Way, kind: type, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("sentinel-4711")

    monkeypatch.setattr(kind, what, failing)
    assert way(server, unknown()) == 500
    assert "RuntimeError" in caplog.text
    assert "sentinel" not in caplog.text
    monkeypatch.undo()
    assert way(server, bearer(token("RS256", kid="first"))) == 200
    assert nobody_waits(server)


@WAYS
def test_who_calls_is_not_waited_for_longer_than_the_request_may_take(
    server: Server, issuer: Published, way: Way
) -> None:
    issuer.delay = 3.0
    began = time.monotonic()
    assert way(server, unknown()) == 504
    assert time.monotonic() - began < 2.5
    assert nobody_waits(server)


def test_the_callers_own_time_counts_too(server: Server, issuer: Published) -> None:
    issuer.delay = 3.0
    began = time.monotonic()
    assert rest(server, unknown(), ("X-Request-Timeout", "50ms")) == 504
    assert time.monotonic() - began < PATIENCE


def test_a_time_that_is_none_is_told_to_those_who_are_known(server: Server) -> None:
    assert rest(server, ("X-Request-Timeout", "soon")) == 401
    assert rest(server, bearer(token("RS256", kid="first")), ("X-Request-Timeout", "soon")) == 400


@WAYS
def test_so_many_wait_at_once_and_others_are_told_to_come_again(server: Server, issuer: Published, way: Way) -> None:
    guard(server)._introductions._most = 2
    issuer.delay = 3.0
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(rest if way is lane else way, server, unknown(str(n))) for n in range(6)]
        statuses = Counter(one.result() for one in asked)
    assert statuses.keys() <= {503, 504}
    assert 2 <= statuses[504] <= 4  # two at a time
    assert nobody_waits(server)


def test_messages_of_callers_who_are_not_known_take_so_much_room_together(server: Server, issuer: Published) -> None:
    lane_of_calls = server.app._grpc_lane
    assert lane_of_calls is not None
    room = lane_of_calls._foyer.room = 300_000
    issuer.delay = 3.0
    body = infer_bytes("m", rows=90_000)
    assert len(body) > room
    with Asker(server) as asker:
        header = [("authorization", unknown()[1])]
        with pytest.raises(grpc.RpcError) as refused:
            asker.call(INFER, body, metadata=header)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert refused.value.details() == "too many callers wait to be known; try again"
        with pytest.raises(grpc.RpcError) as late:
            asker.infer(metadata=header)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: lane_of_calls._foyer.room == room, "the room to be back")
    assert nobody_waits(server)


def test_nothing_more_of_a_call_is_looked_at_once_a_part_of_it_was_refused(
    server: Server, issuer: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(DataPlane, "infer", lambda plane, call: asked.append(call))
    issuer.document = {"keys": [jwk("RS256", "second", "other")]}
    issuer.delay = 0.2
    host, _, port = server.grpc.rpartition(":")
    authorization = ("authorization", f"Bearer {token('RS256', kid='second', name='other')}")
    head = frame(1, 4, 1, Encoder().encode([*HEADERS, authorization], huffman=False))
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(PREFACE + settings_frame(()) + head)
        peer.sendall(frame(0, 0, 1, b"\0\xff\xff\xff\xff") + frame(0, 1, 1, framed(infer_bytes("m"))))
        assert heard(peer, b"the message is larger than max")
        peer.sendall(frame(6, 0, 0, b"are you?"))
        assert heard(peer, b"are you?")
    assert not asked
    assert server.app._admission.in_flight == 0
