"""``grpc.health.v1``: Check and Watch for the server as a whole (an empty name) and for each of its services."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection

from keelway.errors import NotFound
from keelway.transports.grpc.calls import Answer, Caller, message_call
from keelway.wire.health_pb2 import HealthCheckRequest, HealthCheckResponse

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"

#: Seconds between two looks of a watch.
INTERVAL = 0.25


class Health:
    """``services`` are the names that can be asked for; all are as ready as the server is."""

    def __init__(self, services: Collection[str], ready: Callable[[], bool]) -> None:
        self._services = frozenset(services) | {""}
        self._ready = ready
        self._watches = 0
        self._looking: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def calls(self) -> dict[str, Answer]:
        """Path of the method -> its answer."""
        return {CHECK: message_call(HealthCheckRequest, self.check)}

    async def check(self, request: HealthCheckRequest, caller: Caller) -> HealthCheckResponse:
        if request.service not in self._services:
            raise NotFound("there is no such service")
        return HealthCheckResponse(status=self._status(request))

    async def watch(
        self, request: HealthCheckRequest, closing: asyncio.Event
    ) -> AsyncGenerator[HealthCheckResponse, None]:
        """The status now, and again whenever it has changed, until the caller leaves or the server closes. One looks
        for all that watch: anybody may, and they cost nothing while nothing changes."""
        last = None
        self._watches += 1
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(self._ready(), closing))
        try:
            while True:
                news, status = self._news, self._status(request)
                if status != last:
                    yield HealthCheckResponse(status=status)
                    last = status
                if closing.is_set():
                    return
                await news.wait()
        finally:
            self._watches -= 1
            if not self._watches and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _look(self, before: bool, closing: asyncio.Event) -> None:
        while not closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), INTERVAL)
            now = self._ready()
            if now != before or closing.is_set():
                before = now
                news, self._news = self._news, asyncio.Event()
                news.set()

    def _status(self, request: HealthCheckRequest) -> HealthCheckResponse.ServingStatus:
        if request.service not in self._services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if self._ready() else HealthCheckResponse.NOT_SERVING
