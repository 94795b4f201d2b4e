"""The fast lane: which requests take it, and that nobody can tell from the answers. # R1 R3 R4

That its connections keep all limits is shown by the other tests of this folder, which run over it.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence

import pytest
from tests.serving import (
    GatedRuntime,
    Server,
    Shelf,
    forest,
    forest_item,
    predict_bytes,
    request_bytes,
    score,
    wait_until,
)
from tests.wire import Reply

from keelway.edge.protocol import LimitedProtocol
from keelway.transports.rest.door import Door

BODY = json.dumps({"instances": [[1.0, 2.0]]}).encode()
PATH = "/v1/models/m/predict"
JSON = ("Content-Type", "application/json")


@pytest.fixture
def usual_way(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the requests that took the usual way."""
    taken: list[str] = []
    door = Door.__call__

    async def noted(self: Door, scope: object, receive: object, send: object) -> None:
        taken.append(scope["path"])  # type: ignore[index]
        await door(self, scope, receive, send)  # type: ignore[arg-type]

    monkeypatch.setattr(Door, "__call__", noted)
    return taken


@pytest.fixture
def shelf() -> Shelf:
    return Shelf().serve("m", score).serve("later", lambda: score(delay=0.2)).serve("gated", GatedRuntime)


@pytest.fixture
def server(shelf: Shelf, usual_way: list[str]) -> Iterator[Server]:
    with Server(shelf, http={"max_body_bytes": 10_000}) as running:
        yield running


def head(reply: Reply) -> Sequence[tuple[str, str]]:
    """The headers of a reply without what differs from request to request."""
    return sorted((name, value) for name, value in reply.headers.items() if name not in ("date", "x-request-id"))


def request(*headers: tuple[str, str], path: str = PATH, body: bytes = BODY) -> bytes:
    return request_bytes("POST", path, body, *(headers or (JSON,)))


TAKEN = {
    "rows": request(),
    "without a type": request_bytes("POST", PATH, BODY),
    "kept open in words": request(JSON, ("Connection", "keep-alive")),
    "an own origin": request(JSON, ("X-Request-Timeout", "1")),
    "a version": request(path="/v1/models/m/versions/1.0.0/predict"),
    "a bad row": request(body=b'{"instances": [["a", 1]]}'),
    "no JSON": request(body=b"{"),
    "no body": request(body=b""),
    "an unknown model": request(path="/v1/models/nobody/predict"),
    "a body as long as may be": request(body=BODY + b" " * (10_000 - len(BODY))),
}
USUAL = {
    "another method": request_bytes("GET", PATH),
    "another route": request_bytes("GET", "/health/live"),
    "another type": request(("Content-Type", "text/csv")),
    "another host": request_bytes("POST", PATH, BODY, ("Host", "evil.example")),
    "a page of another site": request(JSON, ("Origin", "https://evil.example")),
    "a header twice": request(JSON, ("X-A", "1"), ("X-A", "2")),
    "chunks": request_bytes("POST", PATH, b"", ("Transfer-Encoding", "chunked"), length=False)
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "a body beyond the limit": request(body=b" " * 10_001),
    "a last request": request(JSON, ("Connection", "close")),
    "a wish to go on as something else": request(JSON, ("Connection", "upgrade"), ("Upgrade", "h2c")),
    "a coded body": request(JSON, ("Content-Encoding", "gzip")),
    "a timeout that is none": request(JSON, ("X-Request-Timeout", "soon")),
    "a path in percent": request(path="/v1/models/%6d/predict"),
    "a query": request(path=PATH + "?a=1"),
    "HTTP/1.0": request().replace(b"HTTP/1.1", b"HTTP/1.0", 1),
}


@pytest.mark.parametrize("sent", TAKEN.values(), ids=TAKEN)
def test_a_plain_inference_request_takes_the_lane_and_is_answered_as_on_the_usual_way(
    server: Server, usual_way: list[str], sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.wire() as wire:
        fast = wire.ask(sent)
        assert usual_way == []
        slow = wire.ask(sent.replace(b"\r\n", b"\r\nX-A: 1\r\nX-A: 2\r\n", 1))
    assert len(usual_way) == 1
    assert (fast.status, head(fast)) == (slow.status, head(slow))
    volatile = ("request_id", "time")
    fast_body, slow_body = fast.json, slow.json
    assert {k: v for k, v in fast_body.items() if k not in volatile} == {
        k: v for k, v in slow_body.items() if k not in volatile
    }


@pytest.mark.parametrize("sent", USUAL.values(), ids=USUAL)
def test_what_is_not_plain_takes_the_usual_way(server: Server, usual_way: list[str], sent: bytes) -> None:
    with server.wire() as wire:
        assert wire.ask(sent).status > 0
    assert len(usual_way) == 1
    assert server.in_flight() == 0


def test_binary_tensors_take_the_lane_too(usual_way: list[str]) -> None:
    _, _, samples, _, probabilities = forest()
    with Server(Shelf().put("f", "1.0.0", forest_item()).want("f", "1.0.0")) as server, server.wire() as wire:
        raw = samples[:1].tobytes()
        reply = wire.ask(request_bytes("POST", "/v2/models/f/infer", raw, ("Inference-Header-Content-Length", "0")))
        assert usual_way == []
    length = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.body[:length])["model_name"] == "f"
    assert len(reply.body) - length == 8 + 4 * probabilities.shape[1]


def test_answers_keep_the_order_of_requests_whichever_way_they_take(server: Server, usual_way: list[str]) -> None:
    def row(model: str, value: float, *headers: tuple[str, str]) -> bytes:
        body = json.dumps({"instances": [[value, 0.0]]}).encode()
        return request(*headers, path=f"/v1/models/{model}/predict", body=body)

    twice = (JSON, ("X-A", "1"), ("X-A", "2"))
    with server.wire() as wire:
        wire.send(
            row("m", 1, JSON)
            + row("later", 2, JSON)
            + row("m", 3, JSON)
            + request_bytes("GET", "/health/live")
            + row("m", 4, *twice)
            + row("m", 5, JSON)
        )
        replies = [wire.reply() for _ in range(6)]
    got = [reply.json.get("predictions", ["live"])[0] for reply in replies if reply is not None]
    assert got == [1.0, 2.0, 3.0, "live", 4.0, 5.0]
    # The first found the connection idle. What came behind one that waits for its run has to wait its turn.
    assert len(usual_way) == 5


def test_a_body_in_pieces_is_put_together(server: Server, usual_way: list[str]) -> None:
    sent = request()
    with server.wire() as wire:
        for at in range(0, len(sent), 7):
            wire.send(sent[at : at + 7])
        reply = wire.reply()
    assert reply is not None
    assert reply.json["predictions"] == [3.0]
    assert usual_way == []


def test_a_caller_that_leaves_in_its_body_gives_its_permit_back(server: Server) -> None:
    with server.wire() as wire:
        wire.send(request()[:-5])
        wait_until(lambda: server.in_flight() == 1, "the permit")
    wait_until(lambda: server.in_flight() == 0, "its return")


def test_a_caller_that_leaves_while_the_model_runs_gives_its_permit_back(shelf: Shelf) -> None:
    with Server(shelf, runtime={"slots": 1, "inline_below_ms": 0.0}) as server:
        (gated,) = shelf.runtimes("gated")
        with server.wire() as wire:
            wire.send(request(path="/v1/models/gated/predict", body=b'{"instances": [[-1, 0]]}'))
            wait_until(lambda: gated.running, "the run")
        wait_until(lambda: server.in_flight() == 0, "the permit")
        assert server.metric("ml_requests_total", model="gated", code="CANCELLED") == 1
        gated.gate.set()


def test_without_a_permit_the_caller_is_told_to_come_again(shelf: Shelf, usual_way: list[str]) -> None:
    with Server(shelf, limits={"max_in_flight": 1}) as server, server.wire() as first, server.wire() as second:
        first.send(request(path="/v1/models/later/predict"))
        wait_until(lambda: server.in_flight() == 1, "the permit to be taken")
        refused = [second.ask(request()) for _ in range(2)]  # and the connection goes on
        assert [(reply.status, reply.headers["retry-after"]) for reply in refused] == [(503, "1")] * 2
        assert PATH not in usual_way  # to refuse costs less than to answer
        assert server.metric("ml_requests_shed_total", reason="limit") == 2
        reply = first.reply()
        assert reply is not None
        assert reply.status == 200
    assert server.app._admission.in_flight == 0


def test_a_connection_without_requests_is_closed_in_its_time(usual_way: list[str]) -> None:
    with Server(Shelf().serve("m", score), http={"keep_alive_timeout": 0.3}) as server, server.wire() as wire:
        assert wire.ask(request()).status == 200
        assert usual_way == []
        assert wire.reply() is None  # the end of the connection, within the patience of the wire


def test_a_drain_ends_connections_behind_the_answer(server: Server) -> None:
    with server.wire() as wire:
        server.begin_drain(delay=0.5)
        wait_until(lambda: server.get("/health/ready").status == 503, "readiness to fall")
        reply = wire.ask(request())
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert wire.reply() is None


def test_a_drain_waits_for_an_answer_that_is_under_way(server: Server) -> None:
    with server.wire() as wire:
        wire.send(request(path="/v1/models/later/predict"))
        wait_until(lambda: server.in_flight() == 1, "the request")
        server.begin_drain()
        reply = wire.reply()
        assert reply is not None
        assert (reply.status, reply.headers["connection"]) == (200, "close")
    server.wait_stopped()


def test_the_same_head_is_judged_once_and_others_anew(server: Server, usual_way: list[str]) -> None:
    with server.wire() as wire:
        for _ in range(3):
            assert wire.ask(predict_bytes()).status == 200
            assert wire.ask(request(JSON, ("Origin", "https://evil.example"))).status == 403
    assert len(usual_way) == 3


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the HTTP parser was given."""
    given: list[bytes] = []
    feed = LimitedProtocol._feed

    def noted(self: LimitedProtocol, data: bytes) -> None:
        given.append(data)
        feed(self, data)

    monkeypatch.setattr(LimitedProtocol, "_feed", noted)
    return given


def test_a_head_that_was_read_before_is_not_parsed_again_on_any_connection(server: Server, parsed: list[bytes]) -> None:
    first, other = request(), request(body=json.dumps({"instances": [[3.0, 5.0]]}).encode())
    with server.wire() as wire, server.wire() as neighbour:
        answers = [wire.ask(sent).json["predictions"] for sent in (first, other, first)]
        assert parsed == [first]
        neighbour.ask(other)
        assert parsed == [first, other]  # the first request of a connection: nothing is known of it
        assert neighbour.ask(first).json["predictions"] == answers[0] == answers[2] != answers[1]
        assert parsed == [first, other]


def test_what_is_remembered_of_a_head_is_its_own_and_of_whole_requests(server: Server, parsed: list[bytes]) -> None:
    # Were a second request taken for the first, its verdict would answer for the first one's head ever after.
    short = request_bytes("POST", PATH, b"x" * 300, JSON)[:-300]
    nobody, another = (request(path=f"/v1/models/{name}/predict") for name in ("nobody", "no-one"))
    trick = nobody + short + b" " * (300 - len(BODY) - len(short))
    with server.wire() as wire:
        assert wire.ask(trick).status == 404
    with server.wire() as wire:
        assert wire.ask(another).status == 404
        assert wire.ask(trick).status == 404  # 400, were it one request to m


def test_a_known_head_with_too_little_or_too_much_behind_it_goes_to_the_parser(
    server: Server, parsed: list[bytes]
) -> None:
    whole = request()
    with server.wire() as wire:
        assert wire.ask(whole).status == wire.ask(whole).status == 200
        wire.send(whole[:-3])
        wire.send(whole[-3:])
        assert wire.reply().status == 200
        wire.send(whole + whole[:40])
        assert wire.reply().status == 200
        assert wire.ask(whole[40:]).status == 200
    assert len(parsed) == 5


@pytest.mark.parametrize("ending", [b"", b"\r\n", b"\n", b"\r"])
def test_line_ends_between_requests_change_nothing(server: Server, ending: bytes) -> None:
    with server.wire() as wire:
        for _ in range(3):
            wire.send(request() + ending)
            assert wire.reply().status == 200


@pytest.mark.parametrize("path", [PATH, "/v1/models/later/predict", "/v1/models/nobody/predict"])
def test_an_answered_request_is_forgotten_without_the_collector(server: Server, path: str) -> None:
    # Cycles would be found by the collector, which stops all others meanwhile.
    gc.collect()
    gc.disable()
    try:
        with server.wire() as wire:
            for _ in range(10):
                assert wire.ask(request(path=path)).status in (200, 404)
            assert sum(type(thing).__name__ in ("_LaneCycle", "Waiting") for thing in gc.get_objects()) <= 2
    finally:
        gc.enable()
