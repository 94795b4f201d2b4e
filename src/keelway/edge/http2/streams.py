"""One stream: the windows of both directions, and what waits to be sent. The connection moves it (``connection.py``);
who answers it sees the methods."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from keelway.edge.http2.limits import STREAM_WINDOW
from keelway.types import Peer

if TYPE_CHECKING:
    from keelway.edge.http2.application import Exchange, Response


class Connection(Protocol):
    """What a stream needs of its connection."""

    peer: Peer

    def respond(self, stream: Stream, response: Response) -> None: ...

    def start(self, stream: Stream, head: bytes) -> None: ...

    def send(self, stream: Stream, data: bytes) -> None: ...

    def end(self, stream: Stream, trailers: bytes) -> None: ...

    def open_window(self, stream: Stream, size: int) -> None: ...


class Stream:
    """``since`` is when it began, in seconds on the monotonic clock; ``expected`` what its body is said to have, in
    bytes, -1 if nothing is said."""

    __slots__ = (
        "_connection",
        "allowed",
        "credit",
        "ended",
        "exchange",
        "expected",
        "id",
        "peer",
        "pending",
        "received",
        "returned",
        "since",
        "stalled_since",
        "trailers",
        "unsent",
        "unsent_before",
        "waiter",
    )

    def __init__(self, connection: Connection, number: int, since: float, expected: int) -> None:
        self._connection = connection
        #: Who is at the other end; whoever knows better, behind a proxy, may say so.
        self.peer = connection.peer
        self.id = number
        self.since = since
        self.expected = expected
        self.exchange: Exchange = None  # type: ignore[assignment]
        self.received = 0
        #: Bytes that the peer may still send.
        self.allowed = STREAM_WINDOW
        #: Bytes that were taken in and not yet allowed again.
        self.returned = 0
        #: What the peer allows beyond its initial window, less what it was sent.
        self.credit = 0
        self.ended = False
        self.pending: deque[memoryview] | None = None
        self.trailers: bytes | None = None
        self.unsent = self.unsent_before = 0
        self.stalled_since: float | None = None
        self.waiter: asyncio.Future[Any] | None = None

    def respond(self, response: Response) -> None:
        """Answer at once and whole."""
        self._connection.respond(self, response)

    def start(self, head: bytes) -> None:
        """Begin an answer that comes in parts."""
        self._connection.start(self, head)

    def send(self, data: bytes) -> None:
        self._connection.send(self, data)

    def end(self, trailers: bytes) -> None:
        self._connection.end(self, trailers)

    def consumed(self, size: int) -> None:
        """``size`` bytes of the body take no room any more: the peer may send as many."""
        self.returned += size
        if self.returned >= STREAM_WINDOW // 2 and not self.ended:
            returned, self.returned = self.returned, 0
            self.allowed += returned
            self._connection.open_window(self, returned)

    async def drained(self) -> None:
        """Until what was sent has gone out: how fast is the peer's affair."""
        if self.pending:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
