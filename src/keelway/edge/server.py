"""The HTTP server around the protocol: uvicorn's, which drains when it is told, may share its socket, may speak TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from keelway.config import HttpSettings
from keelway.edge.accepting import Acceptor, Place
from keelway.edge.http2.connection import Http2Connection
from keelway.edge.uvicorn_parts import Config, Server


class EdgeServer(Server):
    """Uvicorn without its signal handlers: the app drains in its own order. With a ``place`` the connections come from
    there, over TLS if there is a ``context``, and uvicorn is given no socket; ``early``: from the start on."""

    def __init__(
        self,
        config: Config,
        settings: HttpSettings,
        place: Place | None = None,
        *,
        early: bool = True,
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._place = place
        self._early = early
        self._context = context
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._place is None:
            await super().startup(sockets)
            return
        protocol: Any = self.config.http_protocol_class
        make = partial(protocol, config=self.config, server_state=self.server_state, app_state={})
        connections = self.server_state.connections
        self._acceptor = Acceptor(self._place, connections, make, self._settings, self._context)
        self.servers = [self._acceptor]  # type: ignore[list-item]
        self.started = True
        if self._early:
            self._acceptor.open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor.cut_off()
        await super().shutdown(sockets)
        # Uvicorn cancels what takes longer than it may; a connection of HTTP/2 has more than one task can end.
        for connection in self._http2():
            connection.abort()

    def take_connections(self) -> None:
        """Begin to take connections, for a server that is not early."""
        if self._acceptor is not None and not self.should_exit:
            self._acceptor.open()

    def stop_taking_connections(self) -> None:
        """Leave new connections to the other processes of the place; those that there are stay."""
        if self._acceptor is not None:
            self._acceptor.close()

    def is_empty(self) -> bool:
        """Whether there is no connection any more. Peers of HTTP/2 are told to go, also those that came last."""
        for connection in self._http2():
            connection.shutdown()
        return not self.server_state.connections and not (self._acceptor and self._acceptor.busy)

    def _http2(self) -> list[Http2Connection]:
        return [one for one in self.server_state.connections if isinstance(one, Http2Connection)]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_config(
    application: Callable[..., Any], protocols: Callable[..., Any], settings: HttpSettings, drain_timeout: float
) -> Config:
    """For ``EdgeServer``: ``application`` is of ASGI, ``protocols`` makes the protocol of each connection."""
    return Config(
        application,
        http=protocols,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # With the date, which both ways of answering have ready as bytes: it costs no request anything.
        headers=[("x-content-type-options", "nosniff")],
        proxy_headers=False,
        # Uvicorn's types ask for whole seconds; asyncio, which gets them, takes fractions.
        timeout_keep_alive=settings.keep_alive_timeout,  # type: ignore[arg-type]
        timeout_graceful_shutdown=drain_timeout,  # type: ignore[arg-type]
    )
