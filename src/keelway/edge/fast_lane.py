"""The fast lane of the one port: an inference request is answered from the parser's own callbacks.

No ASGI scope, no task, no messages; what the lane does not take goes uvicorn's usual way, on the same connection and in
order. What is an inference request, and what answers it, the lane is told by whoever opens it (``Lane``); nothing here
knows models. What of uvicorn's inside it leans on is named in ``uvicorn_parts.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from keelway.clock import Clock
from keelway.config import HttpSettings
from keelway.edge.outbox import Outbox
from keelway.edge.polling import BusyPoll
from keelway.edge.protocol import LimitedProtocol
from keelway.edge.uvicorn_parts import HttpToolsProtocol
from keelway.types import Peer

Headers = Sequence[tuple[bytes, bytes]]

_END = b"\r\n\r\n"
#: Heads of all connections that are remembered, and the most bytes of one.
_REMEMBERED, _REMEMBERED_BYTES = 4096, 2048


class Reply(NamedTuple):
    """``headers`` without those of the connection and the date."""

    status: int
    headers: Headers
    body: bytes


class Waits(Protocol):
    """A reply that is not there yet, and may be cancelled as a task may."""

    def cancel(self, msg: object = None) -> bool: ...


class Exchange(Protocol):
    """One request whose head was read. Exactly one of ``answer`` and ``abandon`` is called."""

    @property
    def reads_body(self) -> bool:
        """Whether ``answer`` looks at the body. Nothing is kept of one that nobody looks at."""
        ...

    def answer(self, body: bytes, replied: Callable[[Reply | None], None]) -> Reply | Waits:
        """The reply, or what waits for it: then ``replied`` is called with it once, perhaps before this returns; with
        ``None`` if it is cancelled."""
        ...

    def abandon(self) -> None:
        """The body never came whole."""
        ...


class Verdict(Protocol):
    """What a lane has found out of a head."""

    @property
    def length(self) -> int:
        """Of the body, in bytes."""
        ...


class Lane(Protocol):
    """Who opens the lane."""

    def judge(self, target: bytes, headers: Headers) -> Verdict | None:
        """What to open a POST of HTTP/1.1 with these headers by, or ``None`` if it takes the usual way. Raises nothing.

        It is taken only with a body of a stated and allowed length, and without any header that changes how a
        connection or a body is read. The same head has the same verdict, always."""
        ...

    def open(self, verdict: Any, peer: Peer) -> Exchange | None:
        """One request behind a head with that verdict, by a connection from ``peer``; ``None`` if it takes the usual
        way this time, where it may wait with its body unread. Raises nothing."""
        ...

    @property
    def closing(self) -> bool:
        """Whether connections should not be used any more."""
        ...


class Shared:
    """What the connections of one port share: heads that were read, replies of this turn, and who stays awake."""

    def __init__(self, polling: BusyPoll) -> None:
        self.heads: dict[bytes, Verdict] = {}
        self.outbox = Outbox()
        self.polling = polling


class _LaneCycle:
    """What stands where uvicorn keeps the request of a connection, with the attributes that it looks at."""

    __slots__ = (
        "disconnected",
        "exchange",
        "keep_alive",
        "parts",
        "response_complete",
        "response_started",
        "waits",
    )

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        #: What has come of the body, unless nobody looks at it.
        self.parts: list[bytes] | None = [] if exchange.reads_body else None
        self.waits: Waits | None = None
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

    def cancel(self, msg: object = None) -> None:
        """It stands among uvicorn's tasks too, which are cancelled one by one when they take too long: none may leave
        their set meanwhile."""
        if self.waits is not None:
            asyncio.get_running_loop().call_soon(self.waits.cancel)


class FastLaneProtocol(LimitedProtocol):
    """One connection. ``preface.port_factory`` binds ``lane``, ``shared``, ``settings`` and ``clock``; the rest is
    uvicorn's."""

    def __init__(
        self, lane: Lane, shared: Shared, settings: HttpSettings, clock: Clock, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(settings, clock, *args, **kwargs)
        self._lane = lane
        self._receiving: _LaneCycle | None = None
        self._verdict: Verdict | None = None
        self._messages = 0
        self._heads = shared.heads
        self._outbox = shared.outbox
        self._polling = shared.polling
        self._posted = False
        self._dated_by: Headers = ()
        self._date = b""

    def data_received(self, data: bytes) -> None:
        """A request that has come whole, behind a head that the parser has read before, byte for byte, and at a place
        like this, is not parsed again: the same few heads come again and again."""
        head = data[: data.find(_END) + len(_END)] if self._begins() else b""
        verdict = self._heads.get(head)
        if verdict is not None and self._idle_since is not None and len(data) - len(head) == verdict.length:
            cycle = self._begin(verdict)
            if cycle is not None:
                self._idle_since = None
                self._answer(cycle, data[len(head) :], post=True)
                return
        self._deliver_posted()
        self._verdict, self._messages = None, 0
        super().data_received(data)
        if head and self._verdict is not None and self._messages == 1:
            self._remember(head, self._verdict, len(data) - len(head))

    def _begins(self) -> bool:
        """Whether what is read now begins a request that the lane may take: the first of the connection, or one behind
        others that were answered."""
        if self._idle_since is None:
            return self.cycle is None and self._head_since is not None and not self._head_bytes
        busy = self._head_since is not None or self._closing_soon or self.flow.write_paused
        return not busy and not self.transport.is_closing()

    def _remember(self, head: bytes, verdict: Verdict, length: int) -> None:
        """Only what was one request and no more: that of a second one would be taken for this head's."""
        if length == verdict.length and len(head) <= _REMEMBERED_BYTES:
            if len(self._heads) >= _REMEMBERED:
                self._heads.clear()
            self._heads[head] = verdict

    def on_message_begin(self) -> None:
        # Uvicorn makes its scope here. It is put off until somebody needs it.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._messages += 1
        self._begin_head()

    def on_headers_complete(self) -> None:
        verdict = self._judged()
        cycle = None if verdict is None else self._begin(verdict)
        if cycle is None:
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
        self._verdict, self._receiving = verdict, cycle

    def _begin(self, verdict: Verdict) -> _LaneCycle | None:
        """What the lane opens, if it does: then it stands where uvicorn keeps a request."""
        exchange = self._lane.open(verdict, self.peer)
        if exchange is None:
            return None
        cycle: Any = _LaneCycle(exchange)
        cycle.keep_alive = not self._closing_soon
        self.cycle = self._answering = cycle
        return cycle  # type: ignore[no-any-return]

    def on_body(self, body: bytes) -> None:
        cycle = self._receiving
        if cycle is None:
            super().on_body(body)
            return
        self._body_bytes += len(body)
        if cycle.parts is not None:
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
        parts = cycle.parts or ()
        self._answer(cycle, parts[0] if len(parts) == 1 else b"".join(parts))

    def _answer(self, cycle: _LaneCycle, body: bytes, *, post: bool = False) -> None:
        answer = cycle.exchange.answer(body, partial(self._replied, cycle))
        if isinstance(answer, Reply):
            self._reply(cycle, answer, post=post)
        elif not cycle.response_complete:
            cycle.waits = answer
            # Among uvicorn's own tasks, which it waits for when it stops, and cancels when that takes too long.
            tasks: set[Any] = self.tasks
            tasks.add(cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.exchange.abandon()
        waiting: Any = self._answering
        super().connection_lost(exc)
        if isinstance(waiting, _LaneCycle) and waiting.waits is not None:
            waiting.waits.cancel()

    def _judged(self) -> Verdict | None:
        cycle: Any = self.cycle
        # Behind a request that is not answered, or a reader that does not read, it is uvicorn's turn to hold back.
        if (cycle is not None and not cycle.response_complete) or self.flow.write_paused or self._large_read:
            return None
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        return self._lane.judge(self.url, self.headers)

    def _replied(self, cycle: _LaneCycle, reply: Reply | None) -> None:
        cycle.waits = None
        tasks: set[Any] = self.tasks
        tasks.discard(cycle)
        if reply is None:
            cycle.response_complete = True
            self.transport.close()
        elif not cycle.disconnected:
            self._reply(cycle, reply)

    def deliver(self, reply: bytes) -> None:
        """See ``keelway.edge.outbox``."""
        self._posted = False
        self.transport.write(reply)

    def _deliver_posted(self) -> None:
        """Before anything else is done with the connection than to answer one request behind the other."""
        if self._posted:
            self._outbox.flush()

    def shutdown(self) -> None:
        self._deliver_posted()
        super().shutdown()

    def sweep(self, now: float) -> None:
        self._deliver_posted()
        super().sweep(now)

    def _reply(self, cycle: _LaneCycle, reply: Reply, *, post: bool = False) -> None:
        """``post``: there is nothing else in what was read, so that the reply may wait for the end of the turn."""
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
        written = b"".join(head)
        if post and keep_alive and self._outbox.put(self, written):
            self._posted = True
        else:
            self._deliver_posted()
            self.transport.write(written)
            self._polling.answered()
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
