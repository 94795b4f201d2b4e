"""Bodies: whatever their size and form, a caller hears what became of them. # R3"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest
from tests.serving import ROW, GatedRuntime, Server, Shelf, Wire, predict_bytes, request_bytes, score, wait_until

LIMIT = 64 * 1024
MEGABYTE = 1 << 20
PREDICT = "/v1/models/m/predict"
BODY = json.dumps({"instances": [ROW]}).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(Shelf().serve("m", score), http={"max_body_bytes": LIMIT}) as running:
        yield running


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with server.wire() as connection:
        yield connection


def padded(size: int) -> bytes:
    """A good request of exactly ``size`` bytes."""
    return BODY + b" " * (size - len(BODY))


def chunks(body: bytes, size: int = 10_000) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("form", ["declared", "chunked"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_the_limit_is_exact_and_the_connection_goes_on(wire: Wire, form: str, size: int, status: int) -> None:
    if form == "declared":
        reply = wire.ask(request_bytes("POST", PREDICT, padded(size)))
    else:
        head = request_bytes("POST", PREDICT, b"", ("Transfer-Encoding", "chunked"), length=False)
        reply = wire.ask(head + chunks(padded(size)))
    assert reply.status == status
    assert "connection" not in reply.headers
    assert wire.ask(predict_bytes()).status == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_caller_that_sends_100_mb_hears_why_it_is_refused(server: Server, chunked: bool) -> None:
    """With the standard library's client, which reads the reply only after it has sent everything."""

    def body() -> Iterator[bytes]:
        part = b" " * MEGABYTE
        for _ in range(100):
            yield part

    headers = {"Content-Type": "application/json"} | ({} if chunked else {"Content-Length": str(100 * MEGABYTE)})
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", PREDICT, body(), headers, encode_chunked=chunked)
        reply = connection.getresponse()
        assert reply.status == 413
        assert str(LIMIT) in json.loads(reply.read())["detail"]
        connection.close()
    assert server.post(PREDICT, {"instances": [ROW]}).status == 200
    assert server.in_flight() == 0


def test_a_body_declared_beyond_all_reason_is_refused_at_once(server: Server, wire: Wire) -> None:
    head = request_bytes("POST", PREDICT, b"", ("Content-Length", str(1 << 40)), length=False)
    reply = wire.ask(head + b" " * 1000)
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert wire.closed()


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_the_repository_routes_have_a_limit_too(server: Server, wire: Wire, chunked: bool) -> None:
    body = b'{"parameters": "' + b"a" * 2 * MEGABYTE + b'"}'
    form = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))
    head = request_bytes("POST", "/v2/repository/index", b"", form, length=False)
    reply = wire.ask(head + (chunks(body) if chunked else body))
    assert reply.status == 413
    assert "error" in reply.json


@pytest.mark.parametrize("path", ["/v2/models/m/infer", PREDICT, "/v1/models/m:predict", "/invocations"])
@pytest.mark.parametrize("depth", [33, 1000, 30_000])
def test_nesting_has_a_limit(server: Server, path: str, depth: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        body = b'{"instances": ' + opening * depth + closing * depth + b"}"
        assert server.post(path, body[:LIMIT]).status == 400


def test_a_get_may_bring_a_body_that_nobody_reads(wire: Wire) -> None:
    assert wire.ask(request_bytes("GET", "/health/live", BODY)).status == 200
    assert wire.ask(predict_bytes()).status == 200


@pytest.mark.parametrize("status", [404, 405, 415])
def test_a_body_behind_a_refusal_is_skipped_and_the_connection_goes_on(wire: Wire, status: int) -> None:
    path = "/v1/models/nobody/predict" if status == 404 else PREDICT
    headers = [("Content-Type", "text/csv")] if status == 415 else []
    method = "PUT" if status == 405 else "POST"
    assert wire.ask(request_bytes(method, path, b" " * LIMIT, *headers)).status in (status, 400)
    assert wire.ask(predict_bytes()).status == 200


def test_a_server_with_no_permit_left_says_when_to_come_back_before_it_reads_the_body() -> None:
    shelf = Shelf().serve("gated", GatedRuntime)
    with Server(shelf, limits={"max_in_flight": 1}, runtime={"inline_below_ms": 0.0}) as server:
        (runtime,) = shelf.runtimes("gated")
        with server.wire() as busy, server.wire() as refused:
            busy.send(predict_bytes(path="/v1/models/gated/predict", row={"age": -1.0, "income": 0.0}))
            wait_until(lambda: runtime.running == 1, "the run to begin")
            head = predict_bytes(("Expect", "100-continue"), path="/v1/models/gated/predict").split(b"\r\n\r\n")[0]
            reply = refused.ask(head + b"\r\n\r\n")
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert server.get("/health/ready").status == 200
            runtime.gate.set()
            answered = busy.reply()
            assert answered is not None
            assert answered.status == 200
        assert server.metric("ml_requests_shed_total", reason="limit") == 1
        assert server.in_flight() == 0


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (PREDICT, {"content_type": "text/csv"}, 415),
        (PREDICT, {"host": "evil.example"}, 421),
        (PREDICT, {"x_request_timeout": "never"}, 400),
        ("/nowhere", {}, 404),
        ("/health/live", {}, 405),
    ],
)
def test_a_caller_that_sends_once_and_closes_hears_why_it_is_refused(
    server: Server, path: str, headers: dict[str, str], status: int
) -> None:
    """The standard library asks for the connection to be closed and reads nothing before it has sent everything: closed
    at once, it would see a broken pipe."""
    for _ in range(3):
        assert server.post(path, b" " * 4 * MEGABYTE, **headers).status == status


@pytest.mark.parametrize("who", ["caller", "server"])
def test_what_is_sent_behind_a_last_reply_is_not_run(who: str) -> None:
    """Whether the caller has said that it is the last, or the server, which is draining."""
    close = [("Connection", "close")] if who == "caller" else []
    refused = request_bytes("POST", PREDICT, b" " * MEGABYTE, ("Content-Type", "text/csv"), *close)
    with Server(Shelf().serve("m", score)) as server, server.wire() as wire:
        if who == "server":
            server.begin_drain(0.5)
            wait_until(lambda: server.get("/health/ready").status == 503, "the drain")
        reply = wire.ask(refused[:1000])
        assert (reply.status, reply.headers["connection"]) == (415, "close")
        wire.send(refused[1000:] + predict_bytes())
        assert wire.closed()
        assert server.metric("ml_requests_total") == 0
