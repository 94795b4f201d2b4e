"""gRPC on a port of its own: where it listens, and a graceful stop. The calls are answered by ``lane.py``, as on the
HTTP port.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial

from keelway.clock import Clock
from keelway.config import HttpSettings
from keelway.edge.accepting import Acceptor, Place
from keelway.edge.http2.connection import Http2Connection
from keelway.edge.listening import address_of
from keelway.edge.polling import BusyPoll
from keelway.edge.protocol import sweep_forever
from keelway.transports.grpc.lane import GrpcLane


class GrpcServer:
    """Made on a running loop, on which it takes connections from ``place`` at once, over TLS if there is a
    ``context``."""

    def __init__(
        self,
        settings: HttpSettings,
        lane: GrpcLane,
        clock: Clock,
        place: Place,
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._clock = clock
        self._listener = place.listener
        self.address = address_of(place.listener)
        self._connections: set[Http2Connection] = set()
        polling = BusyPoll(settings.busy_poll_us, clock)
        connection = partial(Http2Connection, lane, settings, clock, self._connections, polling)
        self._acceptor = Acceptor(place, self._connections, connection, settings, context)
        self._acceptor.open()
        self._sweeping = asyncio.create_task(sweep_forever(self._connections, clock))

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those under way ``grace`` seconds to finish. Called again, with less."""
        self._acceptor.close()
        self._listener.close()
        end = self._clock.monotonic() + grace
        while not self._is_empty() and self._clock.monotonic() < end:  # noqa: ASYNC110 - nobody says when it is
            await asyncio.sleep(0.01)
        self._acceptor.cut_off()
        for connection in list(self._connections):
            connection.abort()
        self._sweeping.cancel()

    def _is_empty(self) -> bool:
        """Whether there is no connection any more. All are told to go, also those that came last."""
        for connection in list(self._connections):
            connection.shutdown()
        return not self._connections and not self._acceptor.busy
