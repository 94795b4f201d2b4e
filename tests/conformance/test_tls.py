"""Public clients over TLS: they trust the certificate they are given, and nothing is said without it. # G2"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpclib.client
import pytest
from tests.conformance import process_clients
from tests.conformance.clients import Addresses, Refused
from tests.conformance.command_clients import CALL_HEADERS, Folder, curl, framed, raise_status, unframed
from tests.conformance.grpc_clients import messages, path_of, triton
from tests.conformance.grpc_libraries import serializers
from tests.conformance.server import ServerProcess

from keelway.errors import ErrorCode

pytestmark = pytest.mark.slow
PATIENCE = 20.0
READY = path_of("ServerReady")
ASKED = messages.ServerReadyRequest()


class Secured(NamedTuple):
    addresses: Addresses
    certificate: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server with a certificate of its own for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True, timeout=PATIENCE)
    with ServerProcess(tls={"certificate": str(certificate), "private_key": str(key)}) as running:
        yield Secured(running.addresses, certificate)


def test_grpcio(secured: Secured) -> None:
    credentials = grpc.ssl_channel_credentials(secured.certificate.read_bytes())
    with grpc.secure_channel(secured.addresses.grpc, credentials) as channel:
        assert ready(channel)


def test_grpc_aio(secured: Secured) -> None:
    async def asked() -> bool:
        credentials = grpc.ssl_channel_credentials(secured.certificate.read_bytes())
        async with grpc.aio.secure_channel(secured.addresses.grpc, credentials) as channel:
            call = channel.unary_unary(READY, *serializers(ASKED, messages.ServerReadyResponse))
            return bool((await call(ASKED, timeout=PATIENCE)).ready)

    assert asyncio.run(asked())


def test_grpclib(secured: Secured) -> None:
    host, _, port = secured.addresses.grpc.rpartition(":")
    trusting = ssl.create_default_context(cafile=str(secured.certificate))
    trusting.set_alpn_protocols(["h2"])

    async def asked() -> bool:
        async with grpclib.client.Channel(host, int(port), ssl=trusting) as channel:
            call: Any = grpclib.client.UnaryUnaryMethod(channel, READY, type(ASKED), messages.ServerReadyResponse)
            reply = await call(ASKED, timeout=PATIENCE)
            # Closed, it would wait for the other side's goodbye in TLS for longer than this loop lives.
            channel._protocol.connection._transport.abort()
        await asyncio.sleep(0)
        return bool(reply.ready)

    assert asyncio.run(asked())


def test_curl_by_what_the_greeting_of_tls_agrees_on(secured: Secured) -> None:
    with contextlib.closing(Folder()) as folder:
        body, trust = framed(ASKED.SerializeToString()), ["--cacert", str(secured.certificate)]
        said = curl(folder, f"https://{secured.addresses.grpc}{READY}", body, CALL_HEADERS, "--http2", *trust)
    raise_status(said.headers)
    assert messages.ServerReadyResponse.FromString(unframed(said)).ready


def test_nvidias_client(secured: Secured) -> None:
    opened: Any = triton.InferenceServerClient(
        secured.addresses.grpc, ssl=True, root_certificates=str(secured.certificate)
    )
    with contextlib.closing(opened) as client:
        assert client.is_model_ready("sums", "2.0.0")


def test_javascript(secured: Secured) -> None:
    opened = process_clients.javascript(secured.addresses._replace(trust=secured.certificate), "typed")
    with contextlib.closing(opened) as client:
        assert client.model_ready("sums", "2.0.0")


def test_nobody_is_answered_without_tls_or_believed_without_trust(secured: Secured) -> None:
    with grpc.insecure_channel(secured.addresses.grpc) as channel, pytest.raises(grpc.RpcError) as refusal:
        ready(channel)
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
    distrustful = grpc.ssl_channel_credentials()
    with grpc.secure_channel(secured.addresses.grpc, distrustful) as channel, pytest.raises(grpc.RpcError) as refusal:
        ready(channel)
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
    with (
        contextlib.closing(process_clients.javascript(secured.addresses, "typed")) as client,
        pytest.raises(Refused) as no,
    ):
        client.ready()
    assert no.value.code == ErrorCode.UNAVAILABLE


def ready(channel: grpc.Channel) -> bool:
    call = channel.unary_unary(READY, *serializers(ASKED, messages.ServerReadyResponse))
    return bool(call(ASKED, timeout=PATIENCE).ready)
