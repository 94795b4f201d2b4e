"""Deadlines travel with the request, and work that nobody waits for any more is not done. # R5"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving import BLOCKING, ROW, GatedRuntime, Server, Shelf, predict_bytes, score, wait_until

from keelway.errors import InvalidInput
from keelway.transports.rest.door import timeout_of

PATH = "/v1/models/gated/predict"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"0.25", 0.25), (b"0.25s", 0.25), (b"250ms", 0.25), (b"1", 1.0), (b"2s", 2.0), (b"1e-1", 0.1), (b"600", 60.0)],
)
def test_a_timeout_in_seconds_or_milliseconds_may_only_shorten_the_servers_own(text: bytes, seconds: float) -> None:
    assert timeout_of({b"x-request-timeout": text}, 60.0) == pytest.approx(seconds)


def test_without_a_timeout_the_servers_own_holds() -> None:
    assert timeout_of({}, 60.0) == 60.0


BAD = [b"", b"0", b"-1", b"nan", b"inf", b"-inf", b"soon", b"1m", b"ms", b"s", b"1 s s", b"0ms", b"\xff"]


@pytest.mark.parametrize("text", BAD)
def test_a_timeout_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="X-Request-Timeout"):
        timeout_of({b"x-request-timeout": text}, 60.0)


@given(st.binary())
def test_any_text_is_a_timeout_or_refused(text: bytes) -> None:
    try:
        seconds = timeout_of({b"x-request-timeout": text}, 60.0)
    except InvalidInput:
        return
    assert 0 < seconds <= 60
    assert math.isfinite(seconds)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf().serve("gated", GatedRuntime).serve("later", lambda: score(delay=5.0)).serve("m", score)


@pytest.fixture
def server(shelf: Shelf) -> Iterator[Server]:
    """One slot, so that the second request of a gated model waits in its queue."""
    with Server(shelf, runtime={"slots": 1, "inline_below_ms": 0.0}) as running:
        yield running
        for runtime in shelf.runtimes("gated"):
            runtime.gate.set()


@pytest.mark.parametrize("text", [b"soon", b"-1", b"0"])
def test_a_bad_timeout_is_400(server: Server, text: bytes) -> None:
    reply = server.post("/v1/models/m/predict", {"instances": [ROW]}, x_request_timeout=text.decode())
    assert reply.status == 400
    assert "X-Request-Timeout" in reply.json["detail"]
    assert server.in_flight() == 0


def test_an_awaited_model_is_abandoned_at_the_deadline(server: Server) -> None:
    reply = server.post("/v1/models/later/predict", {"instances": [ROW]}, x_request_timeout="100ms")
    assert reply.status == 504
    assert reply.json["code"] == "DEADLINE_EXCEEDED"
    assert server.metric("ml_requests_total", model="later", code="DEADLINE_EXCEEDED") == 1
    assert server.in_flight() == 0


def test_the_servers_own_limit_ends_a_request_that_says_nothing() -> None:
    shelf = Shelf().serve("later", lambda: score(delay=5.0))
    with Server(shelf, limits={"request_timeout": 0.1}) as server:
        assert server.post("/v1/models/later/predict", {"instances": [ROW]}).status == 504


def test_work_still_queued_at_its_deadline_is_skipped(server: Server, shelf: Shelf) -> None:
    (runtime,) = shelf.runtimes("gated")
    with server.wire() as first:
        first.send(predict_bytes(path=PATH, row=BLOCKING))
        wait_until(lambda: runtime.running == 1, "the first run to begin")
        finished = runtime.finished
        reply = server.post(PATH, {"instances": [ROW]}, x_request_timeout="100ms")
        assert reply.status == 504
        runtime.gate.set()
        answer = first.reply()
        assert answer is not None
        assert answer.json["predictions"] == [-1.0]
    assert server.post(PATH, {"instances": [ROW]}).json["predictions"] == [3.0]
    assert runtime.finished == finished + 2, "the request whose time was up was run as well"


def test_work_of_a_caller_that_has_left_is_skipped(server: Server, shelf: Shelf) -> None:
    (runtime,) = shelf.runtimes("gated")
    with server.wire() as first:
        first.send(predict_bytes(path=PATH, row=BLOCKING))
        wait_until(lambda: runtime.running == 1, "the first run to begin")
        finished = runtime.finished
        for leave in ("close", "reset"):
            impatient = server.wire()
            impatient.send(predict_bytes(path=PATH))
            wait_until(lambda: server.in_flight() == 2, "the second request to wait")
            getattr(impatient, leave)()
            wait_until(lambda: server.in_flight() == 1, "the second caller's leaving to be noticed")
        runtime.gate.set()
        answer = first.reply()
        assert answer is not None
        assert answer.json["predictions"] == [-1.0]
    assert server.post(PATH, {"instances": [ROW]}).json["predictions"] == [3.0]
    assert runtime.finished == finished + 2, "the requests whose callers had left were run as well"
    assert server.metric("ml_requests_total", model="gated", code="CANCELLED") == 2  # M2


def test_a_caller_that_leaves_takes_only_its_own_request_along(server: Server, shelf: Shelf) -> None:
    """Its neighbours in the same queue are answered."""
    (runtime,) = shelf.runtimes("gated")
    with server.wire() as first, server.wire() as third:
        first.send(predict_bytes(path=PATH, row=BLOCKING))
        wait_until(lambda: runtime.running == 1, "the first run to begin")
        second = server.wire()
        second.send(predict_bytes(path=PATH))
        wait_until(lambda: server.in_flight() == 2, "the second request")
        third.send(predict_bytes(path=PATH))
        wait_until(lambda: server.in_flight() == 3, "the third request")
        second.reset()
        wait_until(lambda: server.in_flight() == 2, "the second caller's leaving to be noticed")
        runtime.gate.set()
        replies = [first.reply(), third.reply()]
    assert [reply and reply.json["predictions"] for reply in replies] == [[-1.0], [3.0]]
