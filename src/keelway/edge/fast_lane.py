"""The fast lane of the one port: an inference request is answered from the parser's own callbacks.

No ASGI scope, no task, no messages; what the lane does not take goes uvicorn's usual way, on the same connection and in
order. What is an inference request, and what answers it, the lane is told by whoever opens it (``Lane``); nothing here
knows models. Of uvicorn's inside it leans on what ``_LaneCycle`` and ``FastLaneProtocol`` name, and nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from keelway.clock import Clock
from keelway.config import HttpSettings
from keelway.edge.protocol import LimitedProtocol

Headers = Sequence[tuple[bytes, bytes]]


class Reply(NamedTuple):
    """``headers`` without those of the connection and the date."""

    status: int
    headers: Headers
    body: bytes


class Exchange(Protocol):
    """One request whose head was accepted. Exactly one of ``answer`` and ``abandon`` is called, and ``settle`` once the
    future of ``answer`` is done."""

    def answer(self, body: bytes) -> Reply | asyncio.Future[Any]: ...

    def settle(self, future: asyncio.Future[Any]) -> Reply | None:
        """The reply, or ``None`` if the future was cancelled."""
        ...

    def abandon(self) -> None:
        """The body never came whole."""
        ...


class Lane(Protocol):
    """Who opens the lane."""

    def open(self, target: bytes, headers: Headers) -> Exchange | None:
        """An exchange for a POST of HTTP/1.1 with these headers, or ``None`` if it takes the usual way. Raises nothing.

        It is taken only with a body of a stated and allowed length, and without any header that changes how a
        connection or a body is read."""
        ...

    @property
    def closing(self) -> bool:
        """Whether connections should not be used any more."""
        ...


class _LaneCycle:
    """What stands where uvicorn keeps the request of a connection, with the attributes that it looks at."""

    __slots__ = (
        "disconnected",
        "exchange",
        "future",
        "keep_alive",
        "parts",
        "response_complete",
        "response_started",
    )

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.parts: list[bytes] = []
        self.future: asyncio.Future[Any] | None = None
        self.keep_alive = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    @property
    def message_event(self) -> _LaneCycle:
        """Uvicorn sets it to tell that something happened; here ``connection_lost`` does what there is to do."""
        return self

    def set(self) -> None:
        """See ``message_event``."""


class FastLaneProtocol(LimitedProtocol):
    """One connection. ``preface.port_factory`` binds ``lane``, ``settings`` and ``clock``; the rest is uvicorn's."""

    def __init__(self, lane: Lane, settings: HttpSettings, clock: Clock, *args: Any, **kwargs: Any) -> None:
        super().__init__(settings, clock, *args, **kwargs)
        self._lane = lane
        self._receiving: _LaneCycle | None = None
        self._dated_by: Headers = ()
        self._date = b""

    def on_message_begin(self) -> None:
        # Uvicorn makes its scope here. It is put off until somebody needs it.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._begin_head()

    def on_headers_complete(self) -> None:
        exchange = self._opened()
        if exchange is None:
            url, headers, expect = self.url, self.headers, self.expect_100_continue
            HttpToolsProtocol.on_message_begin(self)
            self.url, self.expect_100_continue = url, expect
            self.headers.extend(headers)
            super().on_headers_complete()
            if self.pipeline and isinstance(self._answering, _LaneCycle):
                # Nobody is waiting for messages, who would read on: a caller that leaves must be noticed.
                self.flow.resume_reading()
            return
        self._head_since = None
        self._body_since = self._now()
        self._body_bytes = 0
        self._upgrading = False
        self.headers = []
        cycle: Any = _LaneCycle(exchange)
        cycle.keep_alive = not self._closing_soon
        self._receiving = self.cycle = self._answering = cycle

    def on_body(self, body: bytes) -> None:
        cycle = self._receiving
        if cycle is None:
            super().on_body(body)
            return
        self._body_bytes += len(body)
        cycle.parts.append(body)

    def on_message_complete(self) -> None:
        cycle = self._receiving
        if cycle is None:
            super().on_message_complete()
            return
        self._receiving = None
        self._body_since = None
        if self._finished:  # it was refused while it came, for taking too long
            cycle.exchange.abandon()
            return
        parts = cycle.parts
        answer = cycle.exchange.answer(parts[0] if len(parts) == 1 else b"".join(parts))
        if isinstance(answer, Reply):
            self._reply(cycle, answer)
        else:
            cycle.future = answer
            # Among uvicorn's own tasks, which it waits for when it stops, and cancels when that takes too long.
            tasks: set[Any] = self.tasks
            tasks.add(answer)
            answer.add_done_callback(tasks.discard)
            answer.add_done_callback(partial(self._settled, cycle))

    def connection_lost(self, exc: Exception | None) -> None:
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.exchange.abandon()
        waiting: Any = self._answering
        super().connection_lost(exc)
        if isinstance(waiting, _LaneCycle) and waiting.future is not None:
            waiting.future.cancel()

    def _opened(self) -> Exchange | None:
        cycle: Any = self.cycle
        # Behind a request that is not answered, or a reader that does not read, it is uvicorn's turn to hold back.
        if (cycle is not None and not cycle.response_complete) or self.flow.write_paused or self._large_read:
            return None
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        return self._lane.open(self.url, self.headers)

    def _settled(self, cycle: _LaneCycle, future: asyncio.Future[Any]) -> None:
        reply = cycle.exchange.settle(future)
        if reply is not None and not cycle.disconnected:
            self._reply(cycle, reply)
        elif reply is None:
            self.transport.close()

    def _reply(self, cycle: _LaneCycle, reply: Reply) -> None:
        cycle.response_started = cycle.response_complete = True
        if self.transport.is_closing():
            return
        dated_by = self.server_state.default_headers
        if dated_by is not self._dated_by:
            self._dated_by, self._date = dated_by, _lines(dated_by)
        keep_alive = cycle.keep_alive and not self._lane.closing
        head = [_status_line(reply.status), self._date, _lines(reply.headers)]
        head.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
        head.append(reply.body)
        self.transport.write(b"".join(head))
        if not keep_alive:
            self.close_gently()
        if self.pipeline or self.flow.read_paused:
            self.on_response_complete()
            return
        # What uvicorn does then, but for the timer that it would make and cancel for every request: ``sweep`` looks.
        self.server_state.total_requests += 1
        self._idle_since = self._now()


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
