"""Addresses to listen on: what is one, and that beyond loopback has to be said. # U1"""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from keelway.edge.listening import address_of, bind, resolve, split_address
from keelway.errors import FailedPrecondition, InvalidInput


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("localhost:65535", ("localhost", 65535))],
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "host:http", "host:65536", "h:-1"])
def test_anything_else_is_no_address(address: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        resolve(address, "http.address", anywhere=False)
    assert refusal.value.field == "http.address"


def test_a_host_that_cannot_be_resolved_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(InvalidInput, match="resolved"):
        resolve("nowhere.invalid:80", "http.address", anywhere=False)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_listening_beyond_loopback_needs_to_be_said(address: str) -> None:
    with pytest.raises(FailedPrecondition, match="beyond loopback") as refusal:
        resolve(address, "http.address", anywhere=False)
    assert "--insecure" in (refusal.value.hint or "")


def test_listening_beyond_loopback_when_it_was_said() -> None:
    with closing(bind(resolve("0.0.0.0:0", "http.address", anywhere=True))) as listener:
        assert address_of(listener).startswith("0.0.0.0:")


def test_an_address_that_is_taken_is_said_with_a_way_out() -> None:
    endpoint = resolve("127.0.0.1:0", "grpc.address", anywhere=False)
    with bind(endpoint) as listener, pytest.raises(FailedPrecondition) as refusal:
        bind(endpoint._replace(port=listener.getsockname()[1]))
    assert refusal.value.hint == "choose another port with --grpc HOST:PORT"
