"""A connection without a network: its server side as it is, a transport that only remembers, and the library h2 as the
peer, which refuses every frame that RFC 9113 does not allow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame

from keelway.config import HttpSettings
from keelway.edge.http2.application import Response
from keelway.edge.http2.connection import Http2Connection
from keelway.edge.http2.frames import PREFACE, Http2Error, settings_frame
from keelway.edge.http2.header_blocks import written
from keelway.edge.http2.request_head import RequestHead
from keelway.edge.http2.streams import Stream
from keelway.edge.polling import BusyPoll

HEAD = written([(b":status", b"200"), (b"content-type", b"text/plain")])
TRAILERS = written([(b"checksum", b"1")])
GREETING = PREFACE + settings_frame(())


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> Any:
        raise AssertionError("nobody asks for the date")


class Transport:
    """Remembers what was written and done. ``full``: as one whose peer does not read."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = self.aborted = self.finished = self.reading_paused = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 50000) if name == "peername" else None

    def take(self) -> bytes:
        data, self.written = bytes(self.written), bytearray()
        return data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.finished = True

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False

    def set_write_buffer_limits(self, high: int) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        return 0


class Echo:
    """Answers with the body of the request, ``times`` over; to the path ``/later`` when told."""

    def __init__(self, times: int = 1) -> None:
        self.times = times
        self.judged: list[RequestHead] = []
        self.waiting: list[EchoExchange] = []
        self.cancelled: list[int] = []
        self.swept: list[int] = []

    def judge(self, head: RequestHead) -> EchoOpening:
        self.judged.append(head)
        return EchoOpening(self, head.path == b"/later")

    def answer_all(self) -> None:
        while self.waiting:
            exchange = self.waiting.pop()
            exchange.stream.respond(exchange.response())


class EchoOpening:
    def __init__(self, echo: Echo, later: bool) -> None:
        self.echo = echo
        self.later = later

    def open(self, stream: Stream) -> EchoExchange:
        return EchoExchange(self, stream)


class EchoExchange:
    def __init__(self, opening: EchoOpening, stream: Stream) -> None:
        self.opening = opening
        self.stream = stream
        self.body = b""

    def receive(self, data: bytes) -> None:
        self.body += data
        self.stream.consumed(len(data))

    def finish(self, data: bytes) -> Response | None:
        self.body += data
        if self.opening.later:
            self.opening.echo.waiting.append(self)
            return None
        return self.response()

    def response(self) -> Response:
        return Response(HEAD, self.body * self.opening.echo.times, TRAILERS)

    def cancel(self) -> None:
        self.opening.echo.cancelled.append(self.stream.id)
        if self in self.opening.echo.waiting:
            self.opening.echo.waiting.remove(self)

    def sweep(self, now: float) -> None:
        self.opening.echo.swept.append(self.stream.id)


class Served:
    """One connection of a server of ``Echo``. Everything is done on an event loop of its own."""

    def __init__(self, times: int = 1, **settings: Any) -> None:
        self.echo = Echo(times)
        self.clock = Clock()
        self.transport = Transport()
        self.open: set[Any] = set()
        self.connection = Http2Connection(
            self.echo, HttpSettings(**settings), self.clock, self.open, BusyPoll(0, self.clock)
        )
        self.loop = asyncio.new_event_loop()
        self.do(lambda: self.connection.connection_made(self.transport))  # type: ignore[arg-type]

    def do(self, act: Callable[[], object]) -> None:
        async def turn() -> None:
            act()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def feed(self, data: bytes) -> bytes:
        """What the server says to ``data``."""
        self.do(lambda: self.connection.data_received(data))
        return self.transport.take()

    def wait(self, seconds: float) -> bytes:
        """What it says after so much time, a second at a time."""
        for _ in range(int(seconds)):
            self.clock.time += 1
            self.do(lambda: self.connection.sweep(self.clock.time))
        return self.transport.take()

    def close(self) -> None:
        self.do(lambda: self.connection.connection_lost(None))
        self.loop.close()


class Client:
    """The library h2 in front of ``served``. What it hears is in ``events``."""

    def __init__(self, served: Served) -> None:
        self.served = served
        configuration = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.h2 = h2.connection.H2Connection(configuration)
        self.events: list[Any] = []
        self.h2.initiate_connection()
        self.flush()

    def flush(self, *cuts: int) -> None:
        """Send what is to be sent, cut at ``cuts``, and hear what the server says, until both are silent."""
        data = self.h2.data_to_send()
        if not data:
            self.hear(self.served.transport.take())
        while data:
            said = b""
            for start, end in zip((0, *sorted(cuts)), (*sorted(cuts), None), strict=True):
                said += self.served.feed(data[start:end])
            self.hear(said)
            data, cuts = self.h2.data_to_send(), ()

    def hear(self, data: bytes) -> None:
        self.events += self.h2.receive_data(data)

    def ask(self, body: bytes, path: str = "/echo", end: bool = True) -> int:
        """Send a request; its stream."""
        stream = self.h2.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here")]
        self.h2.send_headers(stream, headers)
        if end:
            self.h2.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    def answer(self, stream: int) -> bytes | None:
        """The body of a whole answer, ``None`` if it is not whole."""
        mine = [event for event in self.events if getattr(event, "stream_id", None) == stream]
        if not any(isinstance(event, h2.events.StreamEnded) for event in mine):
            return None
        assert any(isinstance(event, h2.events.TrailersReceived) for event in mine)
        return b"".join(event.data for event in mine if isinstance(event, h2.events.DataReceived))


def frames(data: bytes) -> list[Frame]:
    found = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        found.append(frame)
        data = data[9 + length :]
    return found


def ended_with(data: bytes) -> Http2Error | None:
    """The code with which the server ends the connection in ``data``."""
    codes = [Http2Error(frame.error_code) for frame in frames(data) if isinstance(frame, GoAwayFrame)]
    return codes[0] if codes else None


def resets(data: bytes) -> dict[int, Http2Error]:
    """Streams that the server ends in ``data`` without an answer."""
    return {
        frame.stream_id: Http2Error(frame.error_code) for frame in frames(data) if isinstance(frame, RstStreamFrame)
    }
