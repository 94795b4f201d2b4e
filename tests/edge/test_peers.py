"""Who is at the other end of a connection, and that every way down the request line is told. # U1"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.certificates import Authority
from tests.serving import Server, Shelf, Wire, predict_bytes, score
from tests.transports.grpc.test_server import GRPC, Asker

from keelway.dataplane import DataPlane, InferenceCall
from keelway.edge.peers import identities_of, peer_of
from keelway.types import NOBODY, Peer


def certified(authority: Authority, folder: Path, name: str, names: str) -> ssl.SSLContext:
    """The context of a client with a certificate for ``name`` and the alternative ``names``."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(*authority.sign(name, names=names, to=folder))
    return context


class Transport(asyncio.BaseTransport):
    def __init__(self, name: Any) -> None:
        super().__init__({"peername": name})


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        (("192.0.2.7", 1234), Peer("192.0.2.7")),
        (("2001:db8::7", 1234, 0, 0), Peer("2001:db8::7")),
        (("::ffff:192.0.2.7", 1234, 0, 0), Peer("192.0.2.7")),
        (("fe80::1%eth0", 1234, 0, 2), Peer("fe80::1%eth0")),
        ("/run/keelway.sock", NOBODY),
        ("", NOBODY),
        (None, NOBODY),
    ],
)
def test_a_peer_is_its_address_without_the_port(name: Any, peer: Peer) -> None:
    assert peer_of(Transport(name)) == peer


def subject(*names: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    return ((("organizationName", "ACME"),), *((("commonName", name),) for name in names))


@pytest.mark.parametrize(
    ("certificate", "identities"),
    [
        ({}, ()),
        ({"subject": subject("batch")}, ("CN=batch",)),
        ({"subject": subject("batch", "admin")}, ()),  # which of them?
        ({"subject": subject("bat\nch")}, ()),
        ({"subject": subject()}, ()),
        (
            {"subject": subject("admin"), "subjectAltName": (("DNS", "a.internal"), ("URI", "spiffe://x/b"))},
            ("DNS:a.internal", "URI:spiffe://x/b"),
        ),
        ({"subject": subject("admin"), "subjectAltName": (("email", "a@b.example"),)}, ("email:a@b.example",)),
        ({"subject": subject("batch"), "subjectAltName": (("IP Address", "192.0.2.1"),)}, ("CN=batch",)),
        ({"subject": subject("admin"), "subjectAltName": (("DNS", "a\0b"),)}, ()),
    ],
)
def test_identities_are_the_alternative_names_or_else_the_common_name(
    certificate: dict[str, Any], identities: tuple[str, ...]
) -> None:
    assert identities_of(certificate) == identities


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Peer]:
    """The peers that the request line was told of."""
    peers: list[Peer] = []
    infer = DataPlane.infer

    def noted(self: DataPlane, call: InferenceCall) -> Any:
        peers.append(call.peer)
        return infer(self, call)

    monkeypatch.setattr(DataPlane, "infer", noted)
    return peers


@pytest.fixture
def server(told: list[Peer]) -> Iterator[Server]:
    with Server(Shelf().serve("m", score), grpc=GRPC) as running:
        yield running


@pytest.mark.parametrize("query", ["", "?usual"], ids=["fast lane", "door"])
def test_rest_tells_the_peer(server: Server, told: list[Peer], query: str) -> None:
    with server.wire() as wire:
        for _ in range(3):
            reply = wire.ask(predict_bytes(path="/v1/models/m/predict" + query))
            assert reply.status == 200
    assert told == [Peer("127.0.0.1")] * 3
    assert all(peer is told[0] for peer in told), "one connection has one peer"


def test_grpc_tells_the_peer(server: Server, told: list[Peer]) -> None:
    with Asker(server) as asker:
        for _ in range(2):
            asker.infer()
    assert told == [Peer("127.0.0.1")] * 2


NAMES = "DNS:batch.internal,URI:spiffe://acme/batch,email:batch@acme.example,IP:127.0.0.1"


@pytest.mark.parametrize(
    ("names", "identities"),
    [(NAMES, ("DNS:batch.internal", "URI:spiffe://acme/batch", "email:batch@acme.example")), ("", ("CN=batch",))],
)
def test_the_certificate_of_a_client_tells_who_it_is_over_both_protocols(
    told: list[Peer], authority: Authority, tmp_path: Path, names: str, identities: tuple[str, ...]
) -> None:
    certificate, key = authority.sign("server", to=tmp_path)
    tls = {"certificate": str(certificate), "private_key": str(key), "client_ca": str(authority.certificate)}
    tls["client_certificates"] = "optional"
    context = certified(authority, tmp_path, "batch", names)
    anonymous = ssl.create_default_context(cafile=str(authority.certificate))
    with Server(Shelf().serve("m", score), context, tls=tls) as server:
        server.grpc = f"127.0.0.1:{server.port}"
        with server.wire() as wire:
            assert wire.ask(predict_bytes()).status == 200
        shown = grpc.ssl_channel_credentials(
            authority.certificate.read_bytes(),
            (tmp_path / "batch.key").read_bytes(),
            (tmp_path / "batch.pem").read_bytes(),
        )
        with Asker(server, shown) as asker:
            asker.infer()
        with Wire(server.port, context=anonymous) as wire:
            assert wire.ask(predict_bytes()).status == 200
    assert told == [Peer("127.0.0.1", identities)] * 2 + [Peer("127.0.0.1")]


def test_a_certificate_is_worth_what_the_settings_say(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("server", to=tmp_path)
    tls = {"certificate": str(certificate), "private_key": str(key), "client_ca": str(authority.certificate)}
    auth = {"mtls": ["DNS:batch.internal -> predict:*"]}
    with Server(
        Shelf().serve("m", score), certified(authority, tmp_path, "batch", NAMES), auth=auth, tls=tls
    ) as server:
        with server.wire() as wire:
            assert wire.ask(predict_bytes()).status == 200
        other = certified(authority, tmp_path, "other", "DNS:other.internal")
        with Wire(server.port, context=other) as wire:
            assert wire.ask(predict_bytes()).status == 401
