"""The first look at a connection of the one port: its first bytes say whether HTTP/2 is spoken on it (RFC 9113, 3.4),
unless the greeting of TLS has said so.

Whoever it is then gets the transport, and what was read; a request after the first costs nothing for it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from keelway.clock import Clock
from keelway.config import HttpSettings
from keelway.edge.fast_lane import FastLaneProtocol, Lane, Shared
from keelway.edge.http2.application import Application
from keelway.edge.http2.connection import Http2Connection
from keelway.edge.http2.frames import PREFACE
from keelway.edge.polling import BusyPoll
from keelway.edge.protocol import BUSY
from keelway.edge.uvicorn_parts import ServerState


class FirstLook(asyncio.Protocol):
    """One connection, until it is known what is spoken on it. Counted and timed like one with half a head.

    ``one`` and ``two`` make the protocols of HTTP/1.1 and HTTP/2; uvicorn's set of ``connections`` has all of them."""

    transport: asyncio.Transport

    def __init__(
        self,
        one: Callable[[], asyncio.Protocol],
        two: Callable[[], asyncio.Protocol],
        connections: set[Any],
        settings: HttpSettings,
        clock: Clock,
    ) -> None:
        self._one = one
        self._two = two
        self._connections = connections
        self._settings = settings
        self._now = clock.monotonic
        self._since = 0.0
        self._read = b""
        self._agreed: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._agreed = agreed(transport)
        if len(self._connections) >= self._settings.max_connections:
            if self._agreed != "h2":
                transport.write(BUSY)
            transport.close()
            return
        self._connections.add(self)
        self._since = self._now()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self not in self._connections:
            return  # refused
        if self._read:
            data = self._read + data
        if self._agreed is not None:
            # Who then speaks the other one is refused by the protocol that was agreed on.
            protocol = self._two() if self._agreed == "h2" else self._one()
        elif not data.startswith(PREFACE[: len(data)]):
            protocol = self._one()
        elif len(data) < len(PREFACE):
            self._read = data
            return
        else:
            protocol = self._two()
        self._connections.discard(self)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(data)

    def shutdown(self) -> None:
        """Nothing has begun."""
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """Close the connection if its peer is too slow. ``now`` is on the monotonic clock, in seconds."""
        if now - self._since > self._settings.header_timeout:
            self.transport.close()


def agreed(transport: asyncio.BaseTransport) -> str | None:
    """What the greeting of TLS has agreed on (ALPN); ``None`` if there was none, or nothing in it."""
    secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return None if secured is None else secured.selected_alpn_protocol()


def port_factory(
    lane: Lane, application: Application, settings: HttpSettings, clock: Clock
) -> Callable[..., FirstLook]:
    """What uvicorn's ``http`` setting takes: makes one protocol per connection. ``lane`` is that of HTTP/1.1,
    ``application`` answers HTTP/2."""

    polling = BusyPoll(settings.busy_poll_us, clock)
    shared = Shared(polling)

    def first_look(config: Any, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> FirstLook:
        connections: set[Any] = server_state.connections
        return FirstLook(
            partial(FastLaneProtocol, lane, shared, settings, clock, config, server_state, app_state, _loop),
            partial(Http2Connection, application, settings, clock, connections, polling),
            connections,
            settings,
            clock,
        )

    return first_look
