"""What a connection reads, and what follows from it (RFC 9113, 5 and 6).

Frames are taken apart in one loop without an object for each. A request whose headers are known and whose body comes in
one frame costs a look-up, a stream and a call; its answer goes out in the same write as those of the others that were
read with it.
"""

from __future__ import annotations

from collections.abc import Callable

from keelway.clock import Clock
from keelway.edge.http2.application import Application, Opening
from keelway.edge.http2.control import ControlFrames
from keelway.edge.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    HAS_PRIORITY,
    HEADERS,
    LAST_STREAM,
    PADDED,
    PREFACE,
    SETTINGS,
    ConnectionFailure,
    Http2Error,
    StreamFailure,
    reset,
    unpadded,
    window_update,
)
from keelway.edge.http2.header_blocks import BlockReader
from keelway.edge.http2.limits import (
    CONCURRENT_STREAMS,
    CONNECTION_WINDOW,
    FRAME_SIZE,
    HEADER_FRAMES,
    WAITING_BYTES,
)
from keelway.edge.http2.request_head import check_trailers, request_head
from keelway.edge.http2.streams import Stream
from keelway.types import NOBODY

_PLAIN = PADDED | HAS_PRIORITY | END_HEADERS


class ReceivingSide(ControlFrames):
    """``connection.py`` adds how it begins, how long it lasts and how it ends."""

    def __init__(self, application: Application, max_header_bytes: int, clock: Clock) -> None:
        super().__init__(max_header_bytes)
        self._application = application
        self.peer = NOBODY
        self.now: Callable[[], float] = clock.monotonic
        # A little more than is announced can be refused by a call's status; beyond, the connection ends.
        self._blocks: BlockReader[tuple[Opening, int]] = BlockReader(2 * max_header_bytes)
        self._max_block = 2 * max_header_bytes
        #: Streams beyond are not taken any more.
        self.last_taken = LAST_STREAM
        self.busy_at = self.heard_at = 0.0
        self.failed = False
        self.preface = PREFACE
        self._greeted = False
        self._parts: list[bytes] = []
        self._held = self._needed = 0
        #: Since when a frame, or the header block of several, is not complete.
        self.partial_since: float | None = None
        self.block_since: float | None = None
        self._allowed = CONNECTION_WINDOW
        self._block: tuple[int, int, list[bytes]] | None = None

    def data_received(self, data: bytes) -> None:
        if self.failed:
            return
        now = self.heard_at = self.now()
        if self._parts:
            self._parts.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        self.reading = True
        try:
            at = self._read_preface(data) if self.preface else 0
            at = self._read_frames(data, at, now)
            if at < len(data):
                self._hold(data[at:], now)
            else:
                self.partial_since = None
        except ConnectionFailure as failure:
            self.fail(failure)
        self.reading = False
        used = CONNECTION_WINDOW - self._allowed
        if used > CONNECTION_WINDOW // 2:
            self._allowed = CONNECTION_WINDOW
            self.out.append(window_update(0, used))
        self.flush()
        if self.paused:
            self._pause_reading()

    def _pause_reading(self) -> None:
        """Whoever does not read is not read from."""
        if not self.failed and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def fail(self, failure: ConnectionFailure) -> None:
        raise NotImplementedError

    def _hold(self, rest: bytes, now: float) -> None:
        """Keep the beginning of a frame until the rest of it has come."""
        self._parts.append(rest)
        self._held = len(rest)
        self._needed = 9 + int.from_bytes(rest[:3], "big") if len(rest) >= 9 else 9
        if self.partial_since is None:
            self.partial_since = now

    def _read_preface(self, data: bytes) -> int:
        size = min(len(data), len(self.preface))
        if data[:size] != self.preface[:size]:
            raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "no preface of HTTP/2")
        self.preface = self.preface[size:]
        if not self.preface:
            self.greet()
        return size

    def _read_frames(self, data: bytes, at: int, now: float) -> int:
        """Do what the whole frames in ``data`` from ``at`` on say; where the last of them ends."""
        end, streams, kept = len(data), self.streams, self._blocks.kept
        unpack = FRAME_HEAD.unpack_from
        while end - at >= 9:
            high, low, kind, flags, number = unpack(data, at)
            size = high << 8 | low
            start = at + 9
            stop = start + size
            if size > FRAME_SIZE:
                raise ConnectionFailure(Http2Error.FRAME_SIZE_ERROR, "a frame beyond the limit")
            if stop > end:
                break
            at = stop
            number &= LAST_STREAM
            if self._block is not None and kind != CONTINUATION:
                raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "a header block broken by another frame")
            if kind == DATA and self._greeted:
                self._allowed -= size
                stream = streams.get(number)
                if self._allowed < 0:
                    raise ConnectionFailure(Http2Error.FLOW_CONTROL_ERROR, "more than the connection's window")
                if stream is None or stream.ended:
                    self._stray_data(number, stream, size)
                else:
                    payload = data[start:stop]
                    self._data(stream, flags, unpadded(payload) if flags & PADDED else payload, size)
            elif kind == HEADERS and self._greeted:
                block = data[start:stop]
                found = kept(block) if flags & _PLAIN == END_HEADERS else None
                if found is not None and number > self.last_stream and number & 1:
                    self.last_stream = number
                    self._open(number, flags, found, now)
                else:
                    self._headers(number, flags, block, now)
            elif kind == CONTINUATION:
                self._continuation(number, flags, data[start:stop], now)
            elif self._greeted or kind == SETTINGS:
                self._greeted = True
                self.control(kind, flags, number, data[start:stop])
            else:
                raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "no SETTINGS behind the preface")
        return at

    # Requests

    def _open(self, number: int, flags: int, found: tuple[Opening, int], now: float) -> None:
        if number > self.last_taken:
            self.forget(number)  # as was said: the peer asks again elsewhere
            return
        if len(self.streams) >= CONCURRENT_STREAMS:
            self._refuse(number, Http2Error.REFUSED_STREAM)
            return
        opening, expected = found
        stream = Stream(self, number, now, expected)
        self.streams[number] = stream
        stream.exchange = opening.open(stream)
        self.busy_at = now
        if flags & END_STREAM:
            self._finish(stream, b"")

    def _data(self, stream: Stream, flags: int, payload: bytes, size: int) -> None:
        stream.allowed -= size
        stream.received += len(payload)
        if stream.allowed < 0:
            self.budgets.resets.spend()
            self.reset_stream(stream, Http2Error.FLOW_CONTROL_ERROR)
        elif flags & END_STREAM:
            self._finish(stream, payload)
        elif payload:
            padding = size - len(payload)
            stream.exchange.receive(payload)
            if padding:
                stream.consumed(padding)
        else:
            self.budgets.empty.spend()
            stream.consumed(size)

    def _finish(self, stream: Stream, payload: bytes) -> None:
        """The request is whole: have it answered."""
        stream.ended = True
        if stream.expected >= 0 and stream.received != stream.expected:
            self.budgets.resets.spend()
            self.reset_stream(stream, Http2Error.PROTOCOL_ERROR)
            return
        if self.waiting_bytes > WAITING_BYTES:
            self.reset_stream(stream, Http2Error.REFUSED_STREAM)
            return
        response = stream.exchange.finish(payload)
        if response is not None:
            self.respond(stream, response)

    def _stray_data(self, number: int, stream: Stream | None, size: int) -> None:
        """DATA on a stream that takes none."""
        if number > self.last_stream or not number & 1:
            raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "DATA on a stream that has not begun")
        if stream is not None:
            self.budgets.resets.spend()
            self.reset_stream(stream, Http2Error.STREAM_CLOSED)
        elif number not in self.forgotten:
            self._refuse(number, Http2Error.STREAM_CLOSED)
        elif not size:
            self.budgets.empty.spend()

    def _refuse(self, number: int, code: Http2Error) -> None:
        self.budgets.resets.spend()
        self.out.append(reset(number, code))
        self.forget(number)

    # Headers

    def _headers(self, number: int, flags: int, payload: bytes, now: float) -> None:
        if not number & 1:
            raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "HEADERS on a stream that is not the peer's")
        if flags & PADDED:
            payload = unpadded(payload)
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFailure(Http2Error.FRAME_SIZE_ERROR, "HEADERS too short for a priority")
            if int.from_bytes(payload[:4], "big") & LAST_STREAM == number:
                raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "a stream that depends on itself")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._complete(number, flags, payload, now)
        else:
            self._block = (number, flags, [payload])
            self.block_since = now

    def _continuation(self, number: int, flags: int, payload: bytes, now: float) -> None:
        if self._block is None or self._block[0] != number:
            raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "CONTINUATION of nothing")
        _, first_flags, parts = self._block
        parts.append(payload)
        if len(parts) > HEADER_FRAMES or sum(map(len, parts)) > self._max_block:
            raise ConnectionFailure(Http2Error.ENHANCE_YOUR_CALM, "a header block beyond the limit")
        if flags & END_HEADERS:
            self._block = self.block_since = None
            self._complete(number, first_flags, b"".join(parts), now)

    def _complete(self, number: int, flags: int, block: bytes, now: float) -> None:
        """A whole header block has come: it begins a request, or ends one."""
        if len(block) > self._max_block:
            raise ConnectionFailure(Http2Error.ENHANCE_YOUR_CALM, "a header block beyond the limit")
        if number <= self.last_stream:
            self._trailers(number, flags, block)
            return
        self.last_stream = number
        found = self._blocks.kept(block)
        if found is None:
            headers = self._blocks.read(block)
            try:
                head = request_head(headers)
            except StreamFailure as failure:
                self._refuse(number, failure.code)
                return
            found = (self._application.judge(head), head.length)
            self._blocks.keep(block, found)
        self._open(number, flags, found, now)

    def _trailers(self, number: int, flags: int, block: bytes) -> None:
        headers = self._blocks.read(block)
        stream = self.streams.get(number)
        if stream is None:
            if number not in self.forgotten:
                raise ConnectionFailure(Http2Error.STREAM_CLOSED, "HEADERS on a stream that is over")
            self.budgets.other.spend()
            return
        if stream.ended or not flags & END_STREAM:
            self.budgets.resets.spend()
            self.reset_stream(stream, Http2Error.STREAM_CLOSED if stream.ended else Http2Error.PROTOCOL_ERROR)
            return
        try:
            check_trailers(headers)
        except StreamFailure as failure:
            self.budgets.resets.spend()
            self.reset_stream(stream, failure.code)
        else:
            self._finish(stream, b"")
