"""The client for asyncio. Every decision is made elsewhere (``calling.py``); this takes the steps and awaits."""

# ruff: noqa: ASYNC109 - a timeout is part of what a call is, and travels to the server
from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from keelway.client.attempts import Send, Steps
from keelway.client.calling import Calling, Rows
from keelway.client.options import ClientOptions, Options
from keelway.client.results import Inference, ModelMetadata, Predictions, ServerMetadata
from keelway.errors import FailedPrecondition
from keelway.types import Array

Result = TypeVar("Result")


class AsyncClient:
    """``Client`` for the tasks of one event loop: the same options, results, errors and retries.

    Connections belong to the loop of the first call. ``async with`` or ``aclose`` gives them back. A cancelled task
    cancels its call, which is not tried again.
    """

    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        self._calling = Calling(url, Options(**options))
        self._connections: Any = None
        self._closed = False

    async def predict(
        self, model: str, rows: Rows, *, version: str | None = None, timeout: float | None = None
    ) -> Predictions:
        """As ``Client.predict``."""
        return await self._run(self._calling.predict(model, rows, version, timeout))

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        id: str = "",
        timeout: float | None = None,
    ) -> Inference:
        """As ``Client.infer``."""
        return await self._run(self._calling.infer(model, inputs, outputs, version, id, timeout))

    async def metadata(self, model: str, version: str | None = None, *, timeout: float | None = None) -> ModelMetadata:
        """As ``Client.metadata``."""
        return await self._run(self._calling.metadata(model, version, timeout))

    async def ready(
        self, model: str | None = None, version: str | None = None, *, timeout: float | None = None
    ) -> bool:
        """As ``Client.ready``."""
        return await self._run(self._calling.ready(model, version, timeout))

    async def live(self, *, timeout: float | None = None) -> bool:
        """As ``Client.live``."""
        return await self._run(self._calling.live(timeout))

    async def server_metadata(self, *, timeout: float | None = None) -> ServerMetadata:
        """As ``Client.server_metadata``."""
        return await self._run(self._calling.server_metadata(timeout))

    async def aclose(self) -> None:
        """Close every connection. Calls after it raise ``FailedPrecondition``."""
        self._closed = True
        if self._connections is not None:
            await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, steps: Steps[Result]) -> Result:
        if self._closed:
            raise FailedPrecondition("the client is closed")
        if self._connections is None:
            # Not before: what grpc.aio opens belongs to the loop that runs.
            self._connections = self._calling.connections("AsyncConnections")
        reply: Any = None
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, Send):
                    reply = await self._connections.send(step.request, step.seconds)
                else:
                    reply = None
                    await asyncio.sleep(step.seconds)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
