"""Addresses and options are checked when a client is made, without repeating what may be secret. # G0"""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from keelway.client import AsyncClient, Client
from keelway.client.options import ClientOptions, Options, endpoint_of
from keelway.errors import InvalidInput


@pytest.mark.parametrize(
    ("url", "text", "is_rest", "is_secure"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", True, False),
        ("http://models.example/", "http://models.example:80", True, False),
        ("https://models.example/behind/a/proxy/", "https://models.example:443/behind/a/proxy", True, True),
        ("grpc://[::1]:9090", "grpc://[::1]:9090", False, False),
        ("grpcs://models.example:443", "grpcs://models.example:443", False, True),
    ],
)
def test_an_address_names_protocol_place_and_security(url: str, text: str, is_rest: bool, is_secure: bool) -> None:
    endpoint = endpoint_of(url, Options())
    assert (endpoint.text, endpoint.is_rest, endpoint.is_secure) == (text, is_rest, is_secure)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8080",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://host:99999",
        "grpc://host",
        "grpc://host:1/path",
        "http://ada:sentinel@host",
        "http://host?sentinel=1",
        "http://host#sentinel",
        "",
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_address_is_refused_without_repeating_it(kind: Any, url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        kind(url)
    assert refused.value.field == "url"
    assert "sentinel" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("timeout", {"timeout": 0.0}),
        ("timeout", {"timeout": float("inf")}),
        ("timeout", {"timeout": float("nan")}),
        ("retries", {"retries": -1}),
        ("max_connections", {"max_connections": 0}),
        ("max_answer_bytes", {"max_answer_bytes": 0}),
        ("token", {"token": "sentinel\r\nx: y"}),
        ("api_key", {"api_key": "sentinel\r\nx: y"}),
        ("headers", {"headers": {"x": "sentinel\n"}}),
        ("headers", {"headers": {"x y": "1"}}),
        ("headers", {"headers": {"Content-Length": "1"}}),
        ("headers", {"headers": {"grpc-timeout": "1"}}),
        ("certificate", {"certificate": "only.pem"}),
        ("url", {"ca_certificate": "ca.pem"}),
    ],
)
def test_an_option_that_makes_no_sense_is_named(field: str, options: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        Client("http://127.0.0.1:1", **options)
    assert refused.value.field == field
    assert "sentinel" not in str(refused.value)


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Client("http://127.0.0.1:1", retires=1)  # type: ignore[call-arg]


def test_every_option_is_declared_documented_and_has_a_default() -> None:
    declared = set(get_type_hints(ClientOptions))
    assert declared == set(Options.__struct_fields__)
    assert {name for name in declared if f"``{name}``" not in (ClientOptions.__doc__ or "")} == set()


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("inf")])
def test_a_call_without_time_is_refused(timeout: float) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidInput, match="timeout"):
        client.server_metadata(timeout=timeout)


def test_a_key_and_a_token_go_into_headers_of_their_own_and_are_not_shown() -> None:  # U1
    options = Options(token="sentinel-1", api_key="sentinel-2", headers={"X-Team": "sentinel-3"})
    assert options.all_headers() == {
        "x-team": "sentinel-3",
        "authorization": "Bearer sentinel-1",
        "x-api-key": "sentinel-2",
    }
    assert "sentinel" not in repr(options)
