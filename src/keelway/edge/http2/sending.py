"""What a connection sends: answers within the peer's windows, in turn, and no faster than it reads."""

from __future__ import annotations

import asyncio
from collections import deque

from keelway.edge.http2.application import Response
from keelway.edge.http2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    HEADERS,
    LARGEST_WINDOW,
    SMALLEST_FRAME_SIZE,
    ConnectionFailure,
    Http2Error,
    frame,
    reset,
    window_update,
)
from keelway.edge.http2.limits import FORGOTTEN_STREAMS, SEND_AHEAD
from keelway.edge.http2.streams import Stream


class SendingSide(asyncio.Protocol):
    """Frames are collected in ``out`` and written once for all that was read together, or answered in one turn of the
    event loop. ``reading``: the end of what is read will write them."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.out: list[bytes] = []
        self.reading = False
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.frame_size = SMALLEST_FRAME_SIZE
        #: What the next header block has to begin with.
        self.block_prefix = b""
        self.paused = False
        #: Bytes of answers for which there is no room yet.
        self.waiting_bytes = 0
        #: Streams that have something to send, and a window of their own for it.
        self._ready: dict[int, Stream] = {}
        #: Streams that were ended here before the peer has: it may not know yet.
        self.forgotten: dict[int, None] = {}
        self._flushing = False

    # Answers

    def respond(self, stream: Stream, response: Response) -> None:
        """Answer ``stream`` whole: in one piece if there is room for it, as there nearly always is."""
        if self.streams.get(stream.id) is not stream:
            return
        head, body, trailers = response
        size = len(body)
        if not trailers:
            self._put_block(stream.id, head, END_STREAM)
            self._answered(stream)
        elif (
            size > self.window
            or size > self.frame_size
            or size > self.initial_window + stream.credit
            or self.waiting_bytes
            or self.paused
            or self.block_prefix
        ):
            self._put_block(stream.id, head, 0)
            stream.trailers = trailers
            self._send(stream, body)
        else:
            self.window -= size
            self.out.append(_in_one_piece(stream.id, head, body, trailers))
            self._answered(stream)
        if not self.reading:
            self.flush_soon()

    def start(self, stream: Stream, head: bytes) -> None:
        if self.streams.get(stream.id) is stream:
            self._put_block(stream.id, head, 0)
            self.flush_soon()

    def send(self, stream: Stream, data: bytes) -> None:
        if self.streams.get(stream.id) is stream:
            self._send(stream, data)
            self.flush_soon()

    def end(self, stream: Stream, trailers: bytes) -> None:
        if self.streams.get(stream.id) is not stream:
            return
        stream.trailers = trailers
        if not stream.pending:
            self._end(stream)
        self.flush_soon()

    def open_window(self, stream: Stream, size: int) -> None:
        if self.streams.get(stream.id) is stream:
            self.out.append(window_update(stream.id, size))
            self.flush_soon()

    def reset_stream(self, stream: Stream, code: Http2Error) -> None:
        """End ``stream`` without an answer."""
        self.out.append(reset(stream.id, code))
        self.forget(stream.id)
        self.drop(stream)
        self.flush_soon()

    def drop(self, stream: Stream) -> None:
        """Let go of a stream that will not be answered."""
        exchange = stream.exchange
        self._close(stream)
        exchange.cancel()

    def forget(self, number: int) -> None:
        """Remember that stream ``number`` was ended here: what still comes on it means nothing."""
        forgotten = self.forgotten
        forgotten[number] = None
        if len(forgotten) > FORGOTTEN_STREAMS:
            del forgotten[next(iter(forgotten))]

    def idle(self) -> None:
        """There is no stream any more."""

    # Windows

    def opened(self, increment: int) -> None:
        """The peer allows ``increment`` more bytes on the connection."""
        self.window += increment
        if self.window > LARGEST_WINDOW:
            raise ConnectionFailure(Http2Error.FLOW_CONTROL_ERROR, "a window beyond the largest")
        if self._ready:
            self._pump()

    def stream_opened(self, stream: Stream, increment: int) -> None:
        """The peer allows ``increment`` more bytes on ``stream``."""
        stream.credit += increment
        if self.initial_window + stream.credit > LARGEST_WINDOW:
            self.reset_stream(stream, Http2Error.FLOW_CONTROL_ERROR)
        elif stream.pending:
            self._ready[stream.id] = stream
            self._pump()

    def initial_window_changed(self, size: int) -> None:
        """It changes the window of every stream (RFC 9113, 6.9.2)."""
        self.initial_window = size
        for stream in self.streams.values():
            if size + stream.credit > LARGEST_WINDOW:
                raise ConnectionFailure(Http2Error.FLOW_CONTROL_ERROR, "a window beyond the largest")
            if stream.pending and size + stream.credit > 0:
                self._ready[stream.id] = stream
        self._pump()

    # Backpressure

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._pump()
        self.flush_soon()

    def flush_soon(self) -> None:
        """Write what was collected: now if nothing else can come in this turn of the loop, otherwise with it."""
        if self.reading or self._flushing:
            return
        if not self.streams:
            self.flush()
        else:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self._flushing = False
        out = self.out
        if out:
            if not self.transport.is_closing():
                self.transport.write(b"".join(out))
            out.clear()

    # Frames

    def _put_block(self, number: int, block: bytes, flags: int) -> None:
        if self.block_prefix:
            block, self.block_prefix = self.block_prefix + block, b""
        size = self.frame_size
        if len(block) <= size:
            self.out.append(frame(HEADERS, flags | END_HEADERS, number, block))
            return
        self.out.append(frame(HEADERS, flags, number, block[:size]))
        for at in range(size, len(block), size):
            last = END_HEADERS if at + size >= len(block) else 0
            self.out.append(frame(CONTINUATION, last, number, block[at : at + size]))

    def _send(self, stream: Stream, data: bytes) -> None:
        if data:
            if stream.pending is None:
                stream.pending = deque()
            stream.pending.append(memoryview(data))
            stream.unsent += len(data)
            self.waiting_bytes += len(data)
            self._ready[stream.id] = stream
            self._pump()
        elif not stream.pending and stream.trailers is not None:
            self._end(stream)

    def _pump(self) -> None:
        """Send what the windows allow, a frame of each stream in turn."""
        ready, sent = self._ready, 0
        while ready and not self.paused and self.window > 0:
            number = next(iter(ready))
            stream = ready.pop(number)
            allowed = min(self.window, self.initial_window + stream.credit, self.frame_size)
            if allowed > 0 and stream.pending:
                sent += self._send_frame(stream, stream.pending, allowed)
                if stream.pending:
                    ready[number] = stream
                elif stream.trailers is not None:
                    self._end(stream)
                else:
                    stream.wake()
                if sent >= SEND_AHEAD:
                    sent = 0
                    self.flush()

    def _send_frame(self, stream: Stream, pending: deque[memoryview], allowed: int) -> int:
        chunk = pending.popleft()
        if len(chunk) > allowed:
            pending.appendleft(chunk[allowed:])
            chunk = chunk[:allowed]
        size = len(chunk)
        self.out.append(frame(DATA, 0, stream.id, bytes(chunk)))
        self.window -= size
        stream.credit -= size
        stream.unsent -= size
        self.waiting_bytes -= size
        return size

    def _end(self, stream: Stream) -> None:
        self._put_block(stream.id, stream.trailers or b"", END_STREAM)
        self._answered(stream)

    def _answered(self, stream: Stream) -> None:
        """All of the answer is on its way. What the peer still sends for it, it need not send (RFC 9113, 8.1)."""
        if not stream.ended:
            self.out.append(reset(stream.id, Http2Error.NO_ERROR))
            self.forget(stream.id)
        self._close(stream)

    def _close(self, stream: Stream) -> None:
        del self.streams[stream.id]
        # It knows the stream too: a cycle for each request would be left to the collector.
        stream.exchange = None  # type: ignore[assignment]
        if stream.unsent:
            self._ready.pop(stream.id, None)
            self.waiting_bytes -= stream.unsent
            stream.unsent = 0
            stream.pending = None
        stream.wake()
        if not self.streams:
            self.idle()


def _in_one_piece(number: int, head: bytes, body: bytes, trailers: bytes) -> bytes:
    """HEADERS, DATA and HEADERS again. Each has to fit into a frame of any peer."""
    pack, size = FRAME_HEAD.pack, len(body)
    return b"".join(
        (
            pack(len(head) >> 8, len(head) & 0xFF, HEADERS, END_HEADERS, number),
            head,
            pack(size >> 8, size & 0xFF, DATA, 0, number),
            body,
            pack(len(trailers) >> 8, len(trailers) & 0xFF, HEADERS, END_HEADERS | END_STREAM, number),
            trailers,
        )
    )
