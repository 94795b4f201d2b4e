"""Bodies of requests that are refused for their heads: let pass, never kept. # U1 R3"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.credentials import HS, JWT, KEYS, Published, token
from tests.serving import Server, Shelf, predict_bytes, request_bytes, score, wait_until

MEBIBYTE = 1 << 20
LENGTH = 48 * MEBIBYTE
PATH = "/v1/models/m/predict"


@pytest.fixture(params=["no credentials", "no permit"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    refusing: dict[str, Any] = {"auth": KEYS, "jwt": HS}
    if request.param == "no permit":
        refusing = {"limits": {"max_in_flight": 1}}
    with Server(Shelf().serve("m", score), http={"max_body_bytes": LENGTH}, **refusing) as running:
        running.app._admission.in_flight += request.param == "no permit"
        yield running


@pytest.fixture
def held() -> Iterator[Callable[[], int]]:
    """Bytes that this process, the server's too, holds more than at the beginning."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


def long_request(*headers: tuple[str, str]) -> bytes:
    """The head of a request with a body of ``LENGTH``."""
    head = request_bytes("POST", PATH, b"", ("Content-Type", "application/json"), *headers)
    return head.replace(b"Content-Length: 0\r\n", b"Content-Length: %d\r\n" % LENGTH)


def test_nothing_is_kept_of_the_body_of_a_refused_request(server: Server, held: Callable[[], int]) -> None:
    with server.wire() as wire:
        refused = wire.ask(predict_bytes()).status
        before = held()
        wire.send(long_request())
        time.sleep(0.2)  # a head that comes with much behind it takes the usual way
        for _ in range(LENGTH // MEBIBYTE - 1):
            wire.send(bytes(MEBIBYTE))
        time.sleep(1.0)  # what the system still keeps is read
        assert held() - before < LENGTH // 4
        # What stands behind the rest of it is the next request, and its answer comes second.
        wire.send(bytes(MEBIBYTE) + request_bytes("GET", "/health/live"))
        replies = [wire.reply(), wire.reply("GET")]
        assert [reply and reply.status for reply in replies] == [refused, 200]
    assert refused in (401, 503)


def test_nothing_of_a_body_is_taken_in_before_it_is_known_who_sends_it(
    issuer: Published, held: Callable[[], int]
) -> None:
    jwt = {**JWT, "algorithms": ["RS256"], "jwks_url": issuer.url, "jwks_pause": 0.05}
    with Server(Shelf().serve("m", score), auth=KEYS, jwt=jwt, http={"max_body_bytes": LENGTH}) as server:
        wait_until(lambda: issuer.asked, "the first fetch")
        time.sleep(0.1)
        issuer.delay = 1.0
        with server.wire() as wire:
            before = held()
            wire.send(long_request(("Authorization", f"Bearer {token('RS256', kid='unknown')}")))
            wire.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):  # the rest waits where the caller is
                wire.send(bytes(LENGTH))
            assert held() - before < LENGTH // 4
