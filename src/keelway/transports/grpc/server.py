"""gRPC on a port of its own: where it listens, TLS, and a graceful stop. The calls are answered by ``lane.py``, as on
the HTTP port.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from pathlib import Path

from keelway.clock import Clock
from keelway.config import GrpcSettings, Settings
from keelway.edge.http2.connection import Http2Connection
from keelway.edge.listening import Endpoint, address_of, bind
from keelway.edge.polling import BusyPoll
from keelway.edge.protocol import sweep_forever
from keelway.errors import FailedPrecondition
from keelway.transports.grpc.lane import GrpcLane


class GrpcServer:
    """Start and stop it on one loop. ``shared``: other processes listen on the same address, and the system spreads the
    connections."""

    def __init__(self, settings: Settings, lane: GrpcLane, clock: Clock, *, shared: bool = False) -> None:
        self._settings = settings
        self._lane = lane
        self._clock = clock
        self._shared = shared
        self._connections: set[Http2Connection] = set()
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self, endpoint: Endpoint) -> str:
        """Listen, and say where: host and port. ``FailedPrecondition`` if the address is taken, or the files of TLS
        cannot be used."""
        context = tls_context(self._settings.grpc)
        listener = bind(endpoint, shared=self._shared)
        http = self._settings.http
        polling = BusyPoll(http.busy_poll_us, self._clock)
        connection = partial(Http2Connection, self._lane, http, self._clock, self._connections, polling)
        patience = http.header_timeout if context is not None else None
        self._server = await asyncio.get_running_loop().create_server(
            connection, sock=listener, ssl=context, ssl_handshake_timeout=patience
        )
        self._sweeping = asyncio.create_task(sweep_forever(self._connections, self._clock))
        return address_of(listener)

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those under way ``grace`` seconds to finish. Called again, with less."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.shutdown()
        end = self._clock.monotonic() + grace
        # The set tells nobody when it is empty.
        while self._connections and self._clock.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()


def tls_context(settings: GrpcSettings) -> ssl.SSLContext | None:
    """TLS as configured, ``None`` without a certificate; with a list of authorities for clients, only clients with a
    certificate of theirs come in. ``FailedPrecondition`` if a file cannot be used."""
    if not settings.tls_certificate and not settings.tls_private_key:
        if settings.tls_client_ca:
            raise FailedPrecondition(
                "grpc.tls_client_ca needs a certificate of the server's own", hint="set grpc.tls_certificate too"
            )
        return None
    for name in ("tls_private_key", "tls_certificate", *(["tls_client_ca"] if settings.tls_client_ca else [])):
        _check_readable(getattr(settings, name), f"grpc.{name}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_private_key, password=_no_password)
        if settings.tls_client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(settings.tls_client_ca)
    except (ssl.SSLError, ValueError):
        raise FailedPrecondition(
            "the files of grpc.tls_certificate, grpc.tls_private_key and grpc.tls_client_ca are not what TLS needs",
            hint="they are PEM files, the key is that of the certificate, and has no passphrase",
        ) from None
    return context


def _no_password() -> str:
    """Asked for where a key has a passphrase; without it, the terminal would be asked."""
    raise ValueError("the key has a passphrase")


def _check_readable(path: str, setting: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"the file of {setting} cannot be read: {error.strerror}", field=setting) from None
