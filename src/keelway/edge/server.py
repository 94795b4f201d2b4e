"""The HTTP server around the protocol: uvicorn's, which drains when it is told, and may share its socket."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn

from keelway.edge.accepting import Acceptor, Berth
from keelway.edge.http2.connection import Http2Connection


class EdgeServer(uvicorn.Server):
    """Uvicorn without its signal handlers: the app drains in its own order. With a ``berth`` the connections come from
    the socket that all workers share."""

    def __init__(self, config: uvicorn.Config, berth: Berth | None = None) -> None:
        super().__init__(config)
        self._berth = berth
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._berth is None:
            await super().startup(sockets)
            return
        protocol: Any = self.config.http_protocol_class
        make = partial(protocol, config=self.config, server_state=self.server_state, app_state={})
        self._acceptor = Acceptor(self._berth, self.server_state.connections, make)
        self.servers = [self._acceptor]  # type: ignore[list-item]
        self.started = True
        if self._berth.early:
            self._acceptor.open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Uvicorn cancels what takes longer than it may; a connection of HTTP/2 has more than one task can end.
        for connection in self._http2():
            connection.abort()

    def take_connections(self) -> None:
        """Begin to take connections, for a ``berth`` that is not early."""
        if self._acceptor is not None and not self.should_exit:
            self._acceptor.open()

    def stop_taking_connections(self) -> None:
        """Leave new connections to the other processes of the ``berth``; those that there are stay, but for peers of
        HTTP/2, who can be told to go."""
        if self._acceptor is not None:
            self._acceptor.close()
        for connection in self._http2():
            connection.shutdown()

    def _http2(self) -> list[Http2Connection]:
        return [one for one in self.server_state.connections if isinstance(one, Http2Connection)]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
