"""One HTTP/2 connection as a protocol of asyncio: how it begins, how long it lasts, how it drains and ends.

What it reads is ``receiving.py``, what it sends ``sending.py``. Time is looked at once a second for all connections
together (``keelway.edge.protocol.sweep_forever``), so that a request pays for no timer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from keelway.clock import Clock
from keelway.config import HttpSettings
from keelway.edge.http2.application import Application
from keelway.edge.http2.frames import LAST_STREAM, PING, ConnectionFailure, Http2Error, frame, goaway
from keelway.edge.http2.limits import PING_AFTER, PING_PATIENCE, SEND_AHEAD
from keelway.edge.http2.receiving import ReceivingSide
from keelway.edge.http2.streams import Stream
from keelway.edge.peers import peer_of
from keelway.edge.polling import BusyPoll

log = logging.getLogger("keelway.edge")

#: Seconds in which a peer that was told to go may close first, and that it may take to answer a PING before it goes.
_LINGER = 1.0
_DRAINING, _THERE = b"draining", b"anybody?"


class Http2Connection(ReceivingSide):
    """``connections`` has the open ones of a server, this one included; ``polling`` is that of its port."""

    def __init__(
        self,
        application: Application,
        settings: HttpSettings,
        clock: Clock,
        connections: set[Any],
        polling: BusyPoll,
    ) -> None:
        super().__init__(application, settings.max_header_bytes, clock)
        self._settings = settings
        self._connections = connections
        self._polling = polling
        self._swept = self._made = 0.0
        self._closing_since: float | None = None
        self._leaving_since: float | None = None
        self._draining_since: float | None = None
        self._asked_at: float | None = None
        self._unread = 0
        self._stalled_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        if len(self._connections) >= self._settings.max_connections:
            self.failed = True
            transport.close()
            return
        self._connections.add(self)
        self.peer = peer_of(transport)
        transport.set_write_buffer_limits(high=SEND_AHEAD)
        self._swept = self._made = self.busy_at = self.heard_at = self.now()

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed = True
        self._connections.discard(self)
        self._drop_all()

    # How it ends

    def fail(self, failure: ConnectionFailure) -> None:
        """Say what was wrong, and close."""
        log.info("an HTTP/2 connection is ended: %s", failure.reason)
        self._say_goodbye(failure.code)

    def shutdown(self) -> None:
        """Finish what has begun, take nothing more, then close. What the peer sends before it has heard of it is still
        taken: the last stream is named when the peer has answered a PING (RFC 9113, 6.8)."""
        if self.preface:
            # It may be on its way, with a call behind it.
            if self._leaving_since is None:
                self._leaving_since = self.now()
        elif self._draining_since is None and not self.failed:
            self._draining_since = self.now()
            self.out.append(goaway(LAST_STREAM, Http2Error.NO_ERROR) + frame(PING, 0, 0, _DRAINING))
            self.flush()

    def greet(self) -> None:
        super().greet()
        if self._leaving_since is not None:
            self.shutdown()

    def abort(self) -> None:
        """Close now; calls under way are cut off."""
        if self.failed:
            self.transport.abort()
            return
        for stream in list(self.streams.values()):
            self.reset_stream(stream, Http2Error.CANCEL)
        self._say_goodbye(Http2Error.NO_ERROR)

    def pong(self, payload: bytes) -> None:
        self._asked_at = None
        if payload == _DRAINING and self._draining_since is not None:
            self._take_no_more()

    def idle(self) -> None:
        self._polling.answered()
        if self.last_taken < LAST_STREAM and not self.failed:
            asyncio.get_running_loop().call_soon(self._finish_drain)

    def _take_no_more(self) -> None:
        if self.last_taken == LAST_STREAM:
            self.last_taken = self.last_stream
            self.out.append(goaway(self.last_stream, Http2Error.NO_ERROR))
            self.flush_soon()
            if not self.streams:
                self.idle()

    def _finish_drain(self) -> None:
        self.flush()
        if not self.streams and not self.failed:
            self.failed = True
            self._close_gently()

    def _say_goodbye(self, code: Http2Error) -> None:
        self.failed = True
        self.out.append(goaway(self.last_stream, code))
        self._drop_all()
        self.flush()
        self._close_gently()

    def _drop_all(self) -> None:
        for stream in list(self.streams.values()):
            self.drop(stream)

    def _close_gently(self) -> None:
        """Let the peer close first: closed with something unread, it would see its connection reset and never read what
        it was told."""
        if self.transport.is_closing():
            return
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self._closing_since = self.now()
        self.transport.write_eof()
        self.transport.resume_reading()

    # How long it lasts

    def sweep(self, now: float) -> None:
        """End what takes too long. ``now`` is on the monotonic clock, in seconds."""
        if self.failed:
            if self._closing_since is not None and now - self._closing_since > _LINGER:
                self.transport.abort()
            return
        self.budgets.refill(now - self._swept)
        self._swept = now
        try:
            self._check_times(now)
            for stream in list(self.streams.values()):
                self._look_at(stream, now)
        except ConnectionFailure as failure:
            self.fail(failure)
        self.flush()

    def _check_times(self, now: float) -> None:
        settings = self._settings
        if self.preface:
            leaving = self._leaving_since is not None and now - self._leaving_since > _LINGER
            if leaving or now - self._made > settings.header_timeout:
                self.transport.close()
            return
        if self.block_since is not None and now - self.block_since > settings.header_timeout:
            raise ConnectionFailure(Http2Error.ENHANCE_YOUR_CALM, "headers that never end")
        if self.partial_since is not None and now - self.partial_since > settings.body_timeout:
            raise ConnectionFailure(Http2Error.ENHANCE_YOUR_CALM, "a frame that never ends")
        if self._draining_since is not None and now - self._draining_since > _LINGER:
            self._take_no_more()
        if self.streams:
            self.busy_at = now
            self._ask(now)
        elif now - self.busy_at > settings.keep_alive_timeout:
            self.shutdown()
        self._check_reader(now)

    def _ask(self, now: float) -> None:
        """Ask a silent peer whether it is there."""
        if self._asked_at is not None:
            if self.heard_at >= self._asked_at:
                self._asked_at = None
            elif now - self._asked_at > PING_PATIENCE:
                self.transport.abort()
        elif now - self.heard_at > PING_AFTER:
            self._asked_at = now
            self.out.append(frame(PING, 0, 0, _THERE))

    def _check_reader(self, now: float) -> None:
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        if not self._unread or self._unread < before:
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = now
        elif now - self._stalled_since > self._settings.body_timeout:
            self.transport.abort()

    def _look_at(self, stream: Stream, now: float) -> None:
        if not stream.ended:
            stream.exchange.sweep(now)
        before, stream.unsent_before = stream.unsent_before, stream.unsent
        if not stream.unsent or stream.unsent < before:
            stream.stalled_since = None
        elif stream.stalled_since is None:
            stream.stalled_since = now
        elif now - stream.stalled_since > self._settings.body_timeout:
            # Its window stays shut: what waits for it is given up.
            self.reset_stream(stream, Http2Error.CANCEL)
