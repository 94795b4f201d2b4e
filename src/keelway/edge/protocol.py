"""The HTTP/1.1 protocol of the one port: uvicorn's, with the limits it leaves out.

Adds a cap on the request head, a time limit for sending it, a time limit for a reader that has stopped, a cap on open
connections, and a shutdown that lets a half-received request finish. Timeouts are looked at once a second for all
connections together, so a request pays for no timer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sized
from typing import Any

import httptools

from keelway.clock import Clock
from keelway.config import HttpSettings
from keelway.edge.peers import peer_of
from keelway.edge.uvicorn_parts import FlowControl, HttpToolsProtocol, RequestResponseCycle
from keelway.types import NOBODY

log = logging.getLogger("keelway.edge")

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
_LARGE_HEAD = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
#: Seconds a peer may go on sending when it has had its last reply.
_LINGER = 5.0
#: Requests that may wait behind the one that is being answered while more is read from their connection.
_PIPELINE_DEPTH = 16
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class LimitedProtocol(HttpToolsProtocol):
    """One connection. ``fast_lane.py`` adds the lane; ``args`` and ``kwargs`` are uvicorn's."""

    def __init__(self, settings: HttpSettings, clock: Clock, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings
        self._now = clock.monotonic
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._head_bytes = 0
        self._large_read = False
        self._trailing = False
        self._begun = False
        self._body_bytes = 0
        self._unreadable = False
        self._upgrading = False
        self._answering: RequestResponseCycle | None = None
        self._idle_since: float | None = None
        self._unread = 0
        self._stalled_since: float | None = None
        self._closing_soon = False
        self._finished = False
        self._reply_transport: _ReplyTransport | None = None
        self.peer = NOBODY

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self._settings.max_connections:
            self.transport = transport
            transport.write(BUSY)
            transport.close()
            return
        super().connection_made(transport)
        self.peer = peer_of(transport)
        # Uvicorn gives each request's scope a copy of this, as its ``state``.
        self.app_state = {**self.app_state, "peer": self.peer}
        self.flow = _PipelineFlow(transport, self.pipeline)
        # A connection that never sends a byte is timed like one that never finishes its head.
        self._head_since = self._now()
        self._reply_transport = _ReplyTransport(transport, self.close_gently)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.flow is not None:
            super().connection_lost(exc)
            # Uvicorn forgets it after a reset, and its timer would keep all of the connection until it runs out.
            self._unset_keepalive_if_required()
        # Uvicorn tells the request that came last; with pipelining another one is being answered.
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._unreadable:
            return
        idle = self._idle_since is not None or self.timeout_keep_alive_task is not None
        self._idle_since = None
        if idle and self._head_since is None and self._body_since is None:
            # The first bytes after a pause. They may be line ends, which the parser skips without a word.
            self._head_since = self._now()
            self._head_bytes = 0
        self._large_read = self._head_bytes + len(data) > self._settings.max_header_bytes
        trailing = self._trailing
        self._begun, self._body_bytes = False, 0
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._head_since is not None or (trailing and self._trailing and not self._body_bytes):
            self._head_bytes += self._unfinished(data) if self._begun else len(data)
            if self._head_bytes > self._settings.max_header_bytes:
                self._refuse(_LARGE_HEAD)

    def _unfinished(self, data: bytes) -> int:
        """Bytes at the end of ``data`` that belong to a head which began in it, behind the requests before: an empty
        line ends their heads, and what the parser took for a body stands between."""
        return max(0, len(data) - (data.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0) - self._body_bytes)

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    # The parser leaves what follows to another protocol. None is spoken here, and a server may go on
                    # as if it had not been asked (RFC 9110, 7.8); clients of the JVM ask with every request.
                    rest = rest[upgrade.args[0] :]
                    self.parser.feed_data(self._head_without_upgrade())
        except httptools.HttpParserError:
            if self._finished:
                self.transport.close()
                return
            self.logger.warning("refused a request that is not valid HTTP/1.1")
            if not self._ends_behind_others():
                self.send_400_response("the request is not valid HTTP/1.1")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def _begin_head(self) -> None:
        self._begun = True
        self._head_since = self._now()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._head_since = None
        if self._large_read and self._head_size() > self._settings.max_header_bytes:
            self._refuse(_LARGE_HEAD)
            return
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("this is no proxy")
            return
        self._refuse_two_readings()
        super().on_headers_complete()
        # The request has its list of headers; what comes behind the body are trailers, which nobody here asked for.
        self.headers = []
        self._body_bytes = 0
        self.cycle.transport = self._reply_transport  # type: ignore[assignment]
        self._body_since = self._now()
        if self._closing_soon:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        # After the last chunk come trailers, and the parser does not say which chunk is the last.
        self._trailing = True
        self._head_bytes = 0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._trailing = False
        self._body_bytes += len(body)
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._body_since = None
        self._trailing = False
        if not self._upgrading and self.cycle is not None:
            super().on_message_complete()
        if self._finished:
            self.transport.close()

    def close_gently(self) -> None:
        """Close, but first let a peer that is still sending its body send the rest: closed at once, it would see its
        connection reset and never read the reply."""
        if self._body_since is None:
            self.transport.close()
        elif not self._finished and not self.transport.is_closing():
            self._finished = True
            self._body_since = self._now()
            if self.transport.can_write_eof():  # TLS has no half of a connection
                self.transport.write_eof()

    def shutdown(self) -> None:
        """Finish what has begun to arrive, then close; close at once when nothing has."""
        receiving = self._head_since is not None and bool(self._head_bytes)
        if receiving:
            self._closing_soon = True
        elif self._body_since is not None and self.cycle.response_complete:
            self.close_gently()
        else:
            super().shutdown()

    def sweep(self, now: float) -> None:
        """Close the connection if its peer is too slow. ``now`` is on the monotonic clock, in seconds."""
        settings = self._settings
        if self._head_since is not None and now - self._head_since > settings.header_timeout:
            self._refuse(_TOO_SLOW if self._head_bytes else b"")
            return
        if self._idle_since is not None and now - self._idle_since > settings.keep_alive_timeout:
            self.transport.close()
            return
        # A body behind a request that is still being answered waits for that request, not for its sender.
        limit = _LINGER if self._finished else settings.body_timeout
        if self._body_since is not None and not self.pipeline and now - self._body_since > limit:
            self._refuse(b"" if self.cycle.response_started else _TOO_SLOW)
            return
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        if not self._unread or self._unread < before:
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = now
        elif now - self._stalled_since > settings.body_timeout:
            self.transport.abort()

    def _ends_behind_others(self) -> bool:
        """Whether requests before the one that is refused are still being answered. Then the connection ends behind
        the last of them: written now, a refusal would be taken for the answer to the first."""
        last: RequestResponseCycle | None = self.cycle
        if self._body_since is not None:
            # It is refused for its body, and has not begun if it waits behind others.
            if not self.pipeline:
                return False
            self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else self._answering
        if last is None or last.response_complete:
            return False
        last.keep_alive = False
        self._unreadable = True
        self._head_since = self._body_since = None
        return True

    def _refuse(self, reply: bytes) -> None:
        if reply and self._ends_behind_others():
            return
        self._head_since = self._body_since = None
        if not self.transport.is_closing():
            if reply and not self._finished:
                self.transport.write(reply)
            self.transport.close()
        self._finished = True

    def _refuse_two_readings(self) -> None:
        """``ValueError`` for what the parser takes and another reader could take otherwise: a body that is chunked and
        something else, and a target that names another host than Host does (RFC 9112, 3.2.2 and 6.1)."""
        codings, host = 0, b""
        for name, value in self.headers:
            if name == b"transfer-encoding":
                codings += 1
                if value.strip().lower() != b"chunked" or codings > 1:
                    raise ValueError("the body is encoded in more ways than one")
            elif name == b"host":
                host = value
        if b"://" in self.url and not self.url.startswith(b"/"):
            authority = self.url.partition(b"://")[2].partition(b"/")[0]
            if authority.lower() != host.lower():
                raise ValueError("the target names another host")

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)


class _PipelineFlow(FlowControl):
    """Reads no further while many requests wait in ``pipeline``. Uvicorn's own reads on after each answer, all that
    there is: a peer that sends requests and takes no answers would fill the memory."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if len(self._pipeline) < _PIPELINE_DEPTH:
            super().resume_reading()


class _ReplyTransport:
    """What a reply is written to: the transport, but for the way it is closed."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


async def sweep_forever(connections: set[Any], clock: Clock, interval: float = 1.0) -> None:
    """Look at every open connection once per ``interval`` seconds, until cancelled."""
    while True:
        await asyncio.sleep(interval)
        _sweep(list(connections), clock.monotonic())


def _sweep(connections: Iterable[Any], now: float) -> None:
    """Apart from the loop that never ends: a name in there would keep the last connection, and all that it holds."""
    for connection in connections:
        try:
            connection.sweep(now)
        except Exception as error:
            # The time limits of all the others must not end here.
            log.error("a connection could not be looked at", exc_info=error)
            connection.transport.abort()
