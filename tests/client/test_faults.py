"""What the client does when something goes wrong: over both protocols, for threads and asyncio. # G0 R5"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.client import fakes
from tests.client.callers import Way, every_way
from tests.client.fakes import Fake, Proxy, listener
from tests.serving import GatedRuntime, Server, Shelf, free_port, score, wait_until

from keelway.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    KeelwayError,
    ModelFailed,
    PayloadTooLarge,
    RateLimited,
    Unavailable,
)


def scheme(way: Way) -> str:
    return "http" if way.scheme == "rest" else "grpc"


@pytest.fixture
def proxy(fake: Fake) -> Iterator[Proxy]:
    made = Proxy(fake.port)
    fake.on_break = made.cut
    yield made
    made.close()


# Retries


@pytest.mark.slow
@every_way
def test_a_busy_server_is_asked_again_when_it_says_with_what_is_left_of_the_deadline(way: Way, fake: Fake) -> None:
    fake.script = ["busy 1"]
    with way.client(fake.url, timeout=9.0) as client:
        before = time.monotonic()
        assert client.server_metadata().name == "fake"
        took = time.monotonic() - before
    assert took >= fakes.WAIT
    # The second attempt has what is left of the deadline.
    first, second = fake.seen
    assert first.seconds > 8.5
    assert second.seconds < 8.0


@every_way
@pytest.mark.parametrize(("behaviour", "kind"), [("busy", Unavailable), ("limited", RateLimited)])
def test_retries_end_with_the_last_error(way: Way, fake: Fake, behaviour: str, kind: type[KeelwayError]) -> None:
    fake.script = [behaviour] * 9
    with way.client(fake.url, retries=2) as client, pytest.raises(kind, match=fakes.WORDS):
        client.server_metadata()
    assert len(fake.seen) == 3


@every_way
def test_no_pause_goes_beyond_the_deadline(way: Way, fake: Fake) -> None:
    fake.script = ["limited 60"]
    before = time.monotonic()
    with way.client(fake.url) as client, pytest.raises(RateLimited) as refused:
        client.server_metadata(timeout=5.0)
    assert refused.value.retry_after == 60.0
    assert time.monotonic() - before < 2.0
    assert len(fake.seen) == 1


@every_way
@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [("wrong", InvalidInput), ("late", DeadlineExceeded), ("failed", ModelFailed), ("gone", Cancelled)],
)
def test_what_would_fail_again_is_not_tried_again(
    way: Way, fake: Fake, behaviour: str, kind: type[KeelwayError]
) -> None:
    fake.script = [behaviour]
    with way.client(fake.url) as client, pytest.raises(kind, match=fakes.WORDS):
        client.server_metadata()
    assert len(fake.seen) == 1


@pytest.mark.slow
@every_way
def test_an_outage_is_not_amplified_once_the_retry_budget_is_spent(way: Way, fake: Fake) -> None:
    fake.script = ["busy"] * 100
    with way.client(fake.url, retries=1) as client:
        for _ in range(12):
            with pytest.raises(Unavailable):
                client.server_metadata()
    assert 12 < len(fake.seen) < 20


# Connections


@every_way
def test_a_server_that_is_not_there_is_unavailable_and_named(way: Way) -> None:
    address = f"{scheme(way)}://127.0.0.1:{free_port()}"
    with way.client(address) as client:
        with pytest.raises(Unavailable, match=f"no server answers at {address}"):
            client.predict("m", {"x": "sentinel"})
        assert (client.live(), client.ready()) == (False, False)


@every_way
def test_a_refused_connection_is_tried_again_until_the_server_is_there(way: Way) -> None:
    port = free_port()
    address = f"{scheme(way)}://127.0.0.1:{port}"
    settings = {"grpc": {"address": f"127.0.0.1:{port}"}} if way.scheme == "grpc" else {}
    http = {} if way.scheme == "grpc" else {"http": {"address": f"127.0.0.1:{port}"}}
    server = Server(Shelf().serve("m", score), **settings, **http)
    later = threading.Timer(0.2, server.start)
    with way.client(address, retries=30) as client:
        later.start()
        try:
            assert client.server_metadata().name == "keelway"
        finally:
            later.join()
            wait_until(server.listening.is_set, "the server to load")
            server.stop()


@every_way
def test_a_request_whose_connection_broke_is_sent_again(way: Way, fake: Fake, proxy: Proxy) -> None:
    fake.script = ["answer", "break"]
    with way.client(f"{fake.scheme}://127.0.0.1:{proxy.port}") as client:
        assert client.server_metadata().name == "fake"
        assert client.server_metadata().name == "fake"
    assert len(fake.seen) == 3
    assert proxy.accepted == 2


@every_way
def test_it_is_not_sent_again_where_that_is_switched_off(way: Way, fake: Fake, proxy: Proxy) -> None:
    fake.script = ["break"]
    with (
        way.client(f"{fake.scheme}://127.0.0.1:{proxy.port}", resend=False) as client,
        pytest.raises(Unavailable, match="broke"),
    ):
        client.server_metadata()
    assert len(fake.seen) == 1


@every_way
def test_a_server_that_restarts_between_two_calls_is_not_noticed(way: Way) -> None:
    port = free_port()
    at = {"address": f"127.0.0.1:{port}"}
    settings = {"http": at} if way.scheme == "rest" else {"grpc": at}
    with way.client(f"{scheme(way)}://127.0.0.1:{port}") as client:
        for _ in range(3):
            with Server(Shelf().serve("m", score), **settings):
                assert client.predict("m", {"age": 1.0, "income": 2.0}).predictions == (3.0,)


# Deadlines


@every_way
def test_a_slow_server_is_given_up_at_the_deadline_which_it_was_told(way: Way, fake: Fake) -> None:
    fake.script = ["slow"]
    with way.client(fake.url) as client:
        before = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=f"{fake.url} did not answer in time"):
            client.server_metadata(timeout=0.4)
        took = time.monotonic() - before
    assert 0.3 < took < fakes.SLOW
    assert 0.1 < fake.seen[0].seconds < 0.41
    assert len(fake.seen) == 1


@every_way
def test_a_call_that_is_given_up_gives_its_place_on_the_server_back(way: Way) -> None:
    shelf = Shelf().serve("gated", GatedRuntime)
    with Server(shelf, grpc={"address": "127.0.0.1:0"}) as server:
        gate = shelf.runtimes("gated")[0].gate
        address = server.url if way.scheme == "rest" else f"grpc://{server.grpc}"
        with way.client(address) as client:
            with pytest.raises(DeadlineExceeded):
                client.predict("gated", {"age": -1.0, "income": 0.0}, timeout=0.3)
            gate.set()
            wait_until(lambda: server.in_flight() == 0, "the permit to come back")
            assert client.predict("gated", {"age": 1.0, "income": 0.0}).predictions == (1.0,)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_server_that_trickles_does_not_outlive_the_deadline(asynchronous: bool) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b" " * 1000
    with (
        listener(answer, pause=0.05, piece=1) as port,
        Way("rest", asynchronous).client(f"http://127.0.0.1:{port}") as client,
    ):
        before = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.server_metadata(timeout=0.5)
        assert time.monotonic() - before < 1.0


# Answers


@every_way
def test_an_answer_of_many_megabytes_is_read_whole(way: Way, fake: Fake) -> None:
    fake.script = ["large"]
    with way.client(fake.url) as client:
        assert len(client.server_metadata().name) == 6_000_000


@every_way
def test_an_answer_above_the_limit_is_refused_and_the_client_lives_on(way: Way, fake: Fake) -> None:
    fake.script = ["large"]
    with way.client(fake.url, max_answer_bytes=1_000_000) as client:
        with pytest.raises(PayloadTooLarge, match="larger than 1000000 bytes"):
            client.server_metadata()
        assert client.server_metadata().name == "fake"
    assert len(fake.seen) == 2


@every_way
def test_a_request_above_the_servers_limit_is_too_large_and_not_sent_again(way: Way) -> None:
    limits = {"max_body_bytes": 100_000}
    with Server(Shelf().serve("m", score), http=limits, grpc={"address": "127.0.0.1:0"}) as server:
        address = server.url if way.scheme == "rest" else f"grpc://{server.grpc}"
        with way.client(address) as client, pytest.raises(PayloadTooLarge):
            client.infer("m", {"input": np.ones((50_000, 2), np.float32)})


@every_way
def test_garbage_is_no_answer_of_a_keelway_server_and_not_asked_for_again(way: Way, fake: Fake) -> None:
    fake.script = ["garbage"]
    with way.client(fake.url) as client, pytest.raises(Unavailable, match="does not answer as a keelway server"):
        client.server_metadata()
    assert len(fake.seen) == 1


GARBAGE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no answer at all": b"",
    "an answer cut short": b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"name"',
    "an answer that is a redirection": b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
    "a page": b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
    "no UTF-8": b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{"\xff"',
    "deep nesting": b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"[" * 100_000,
    "another document": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
    "a proxy's error": b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>",
}


@every_way
@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_whatever_listens_at_the_address_the_error_is_unavailable(way: Way, answer: bytes) -> None:
    with listener(answer) as port, way.client(f"{scheme(way)}://127.0.0.1:{port}", timeout=5.0) as client:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
            client.predict("m", {"x": "sentinel"})
        assert client.live() is False


# Other things a call can be refused for


@every_way
def test_headers_and_the_token_go_with_every_call(way: Way, fake: Fake) -> None:
    with way.client(fake.url, token="t-1", headers={"X-Team": "leads"}) as client:
        client.server_metadata()
    assert fake.seen[0].headers["authorization"] == "Bearer t-1"
    assert fake.seen[0].headers["x-team"] == "leads"


@every_way
def test_a_closed_client_says_so(way: Way, fake: Fake) -> None:
    with way.client(fake.url) as client:
        client.server_metadata()
        close: Any = client.aclose if way.asynchronous else client.close
        close()
        close()
        with pytest.raises(KeelwayError, match="the client is closed"):
            client.server_metadata()
