"""Which Host and Origin headers are let in. # U1"""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving import ROW, Server, Shelf, ask, request_bytes, score

from keelway.transports.rest.errors import HttpRefusal
from keelway.transports.rest.hosts import OriginPolicy

POLICY = OriginPolicy("models.internal", ("API.example.com",), ("https://app.example.com",))


def verdict(host: str, method: str = "POST", origin: str | None = None, policy: OriginPolicy = POLICY) -> int:
    """200, or the status of the refusal."""
    headers = {b"host": host.encode("latin-1")}
    if origin is not None:
        headers[b"origin"] = origin.encode("latin-1")
    try:
        policy.check(headers, method)
    except HttpRefusal as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "models.internal:8080",
        "api.example.com",
        "127.0.0.1:8080",
        "10.1.2.3",
        "[::1]:8080",
        "[2001:db8::1]",
    ],
)
def test_our_names_and_any_address_pass(host: str) -> None:
    assert verdict(host) == 200
    assert verdict(host) == 200  # the second time from memory


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "api.example.com.evil.example",
        "[evil.example]",
        "0x7f000001",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_name_does_not(host: str, method: str) -> None:
    assert verdict(host, method) == 421
    assert verdict(host, method) == 421


def test_a_star_lets_every_host_in() -> None:
    assert verdict("anything.example", policy=OriginPolicy("127.0.0.1", ("*",), ())) == 200


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        (None, "localhost:8080", 200),
        ("http://localhost:8080", "localhost:8080", 200),
        ("http://LOCALHOST:8080", "localhost:8080", 200),
        ("https://app.example.com", "localhost:8080", 200),
        ("https://APP.example.com", "localhost:8080", 200),
        ("http://localhost:9090", "localhost:8080", 403),
        ("http://app.example.com", "localhost:8080", 403),
        ("https://evil.example", "localhost:8080", 403),
        ("https://app.example.com.evil.example", "localhost:8080", 403),
        ("null", "localhost:8080", 403),
        ("", "localhost:8080", 403),
        ("http://[", "localhost:8080", 403),
        ("http://[::1", "[::1]:8080", 403),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_who_may_write(origin: str | None, host: str, expected: int, method: str) -> None:
    assert verdict(host, method, origin) == expected


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_needs_no_origin(method: str) -> None:
    assert verdict("localhost", method, "https://evil.example") == 200


@given(host=st.text(st.characters(max_codepoint=255)), origin=st.none() | st.text(st.characters(max_codepoint=255)))
def test_every_pair_of_headers_has_a_verdict(host: str, origin: str | None) -> None:
    assert verdict(host, "POST", origin) in (200, 403, 421)


def test_the_memory_of_hosts_is_bounded() -> None:
    policy = OriginPolicy("127.0.0.1", ("*",), ())
    for number in range(1000):
        assert verdict(f"host-{number}.example", policy=policy) == 200
    assert len(policy._verdicts) <= 256


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    lists = {"allowed_hosts": ("models.example",), "allowed_origins": ("https://app.example",)}
    with Server(Shelf().serve("m", score), http=lists) as running:
        yield running


PATHS = {
    "/v1/models/m/predict": {"instances": [ROW]},
    "/v1/models/m:predict": {"instances": [ROW]},
    "/invocations": {"instances": [ROW]},
    "/v2/repository/index": {},
}


@pytest.mark.parametrize("path", PATHS)
def test_every_route_is_behind_the_same_check(server: Server, path: str) -> None:
    for headers, status in (
        ({}, 200),
        ({"host": "models.example"}, 200),
        ({"host": "evil.example"}, 421),
        ({"origin": server.url}, 200),
        ({"origin": "https://app.example"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
    ):
        assert ask(server.url + path, "POST", PATHS[path], headers).status == status, headers


@pytest.mark.parametrize("path", ["/metrics", "/v2", "/docs", "/openapi.json", "/health/live", "/nowhere"])
def test_reads_are_behind_the_host_check(server: Server, path: str) -> None:
    assert server.get(path, host="evil.example").status == 421


def test_a_request_of_http_1_0_without_a_host_is_answered(server: Server) -> None:
    with server.wire() as wire:
        assert wire.ask(b"GET /health/live HTTP/1.0\r\n\r\n").status == 200


def test_the_address_listened_on_is_a_name_of_ours() -> None:
    """Also when it was given as a name, and without any list."""
    with Server(Shelf().serve("m", score)) as server:
        connection = http.client.HTTPConnection("localhost", server.port, timeout=10)
        connection.request("GET", "/health/live")
        assert connection.getresponse().status == 200
        connection.close()
        with server.wire() as wire:
            assert wire.ask(request_bytes("GET", "/health/live", host=f"[::1]:{server.port}")).status == 200
