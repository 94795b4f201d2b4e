"""One HTTP/2 connection, frame by frame: what is answered, what ends a stream, and what ends the connection. # G2 R3"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import h2.events
import pytest
from hpack import Encoder
from tests.edge.http2.peers import GREETING, PREFACE, Client, Served, ended_with, frames, resets

from keelway.edge.http2.frames import Http2Error, frame

BLOCK = Encoder().encode(
    [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "here")], huffman=False
)


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.close()


@pytest.fixture
def client(served: Served) -> Client:
    return Client(served)


def test_a_request_is_answered_with_headers_body_and_trailers(client: Client) -> None:
    assert client.answer(client.ask(b"hello")) == b"hello"
    kinds = [type(event) for event in client.events if hasattr(event, "stream_id")]
    assert h2.events.ResponseReceived in kinds
    assert h2.events.TrailersReceived in kinds


def test_the_whole_answer_is_one_write_behind_the_read(served: Served) -> None:
    served.feed(GREETING)
    said = served.feed(frame(1, 4, 1, BLOCK) + frame(0, 1, 1, b"x") + frame(1, 4, 3, BLOCK) + frame(0, 1, 3, b"y"))
    assert [type(one).__name__ for one in frames(said)] == ["HeadersFrame", "DataFrame", "HeadersFrame"] * 2


def test_a_head_that_comes_again_is_judged_once(client: Client) -> None:
    for _ in range(3):
        client.ask(b"")
    judged = len(client.served.echo.judged)
    for _ in range(5):
        client.ask(b"")
    assert len(client.served.echo.judged) == judged < 3


def test_a_head_means_something_else_once_the_table_has_changed(served: Served) -> None:
    """Index 62 is whatever was put into the table last."""
    served.feed(GREETING)

    def begun(stream: int, path: bytes) -> bytes:
        return frame(1, 5, stream, b"\x83\x86\x44" + bytes((len(path),)) + path)

    again = b"\x83\x86\xbe"
    served.feed(begun(1, b"/a") + frame(1, 5, 3, again) + frame(1, 5, 5, again))
    served.feed(begun(7, b"/b") + frame(1, 5, 9, again))
    assert [head.path for head in served.echo.judged] == [b"/a", b"/a", b"/b", b"/b"]


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 300_000])
def test_answers_keep_to_the_windows_of_the_peer(size: int) -> None:
    served = Served(times=3)
    client = Client(served)
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "here")])
    body = bytes(size)
    while body:
        room = min(client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size, len(body))
        client.h2.send_data(stream, body[:room])
        body = body[room:]
        client.flush()
    client.h2.end_stream(stream)
    client.flush()
    seen = 0
    while client.answer(stream) is None:
        assert seen < len(client.events), "the server has nothing more to say"
        for event in client.events[seen:]:
            if isinstance(event, h2.events.DataReceived):
                client.h2.acknowledge_received_data(event.flow_controlled_length, stream)
        seen = len(client.events)
        client.flush()
    assert len(client.answer(stream) or b"") == 3 * size
    served.close()


def test_a_smaller_initial_window_takes_back_what_was_allowed(client: Client) -> None:
    client.h2.update_settings({4: 10})
    client.flush()
    stream = client.ask(b"x" * 25)
    assert client.answer(stream) is None
    client.h2.update_settings({4: 0})
    client.flush()
    client.h2.increment_flow_control_window(10, stream)
    client.flush()
    assert client.answer(stream) is None
    client.h2.update_settings({4: 100})
    client.flush()
    assert client.answer(stream) == b"x" * 25


def test_a_smaller_header_table_is_confirmed(client: Client) -> None:
    client.h2.update_settings({1: 0})
    client.flush()
    assert client.answer(client.ask(b"x")) == b"x"
    assert client.answer(client.ask(b"y")) == b"y"


def test_a_request_of_many_frames_with_padding_and_trailers(client: Client) -> None:
    stream = client.ask(b"", end=False)
    client.h2.send_data(stream, b"abc", pad_length=7)
    client.h2.send_data(stream, b"", pad_length=200)
    client.h2.send_data(stream, b"def")
    client.h2.send_headers(stream, [("checksum", "1")], end_stream=True)
    client.flush()
    assert client.answer(stream) == b"abcdef"


def test_a_header_block_may_come_in_many_frames(served: Served) -> None:
    served.feed(GREETING)
    said = served.feed(frame(1, 0, 1, BLOCK[:3]) + frame(9, 0, 1, BLOCK[3:9]) + frame(9, 4, 1, BLOCK[9:]))
    said += served.feed(frame(0, 1, 1, b"x"))
    assert [type(one).__name__ for one in frames(said)] == ["HeadersFrame", "DataFrame", "HeadersFrame"]


def test_frames_may_come_byte_by_byte(served: Served) -> None:
    data = GREETING + frame(1, 4, 1, BLOCK) + frame(0, 1, 1, b"hello")
    said = b"".join(served.feed(data[at : at + 1]) for at in range(len(data)))
    assert b"hello" in said


def test_a_stream_that_the_peer_takes_back_is_cancelled(client: Client) -> None:
    stream = client.ask(b"x", "/later")
    client.h2.reset_stream(stream)
    client.flush()
    assert client.served.echo.cancelled == [stream]
    assert not client.served.connection.streams


def test_a_connection_that_is_lost_cancels_all_it_had(served: Served) -> None:
    client = Client(served)
    streams = [client.ask(b"x", "/later"), client.ask(b"", "/echo", end=False)]
    served.do(lambda: served.connection.connection_lost(None))
    assert served.echo.cancelled == streams
    assert not served.open


FAILURES: dict[str, tuple[bytes, Http2Error]] = {
    "DATA on stream 0": (frame(0, 0, 0, b"x"), Http2Error.PROTOCOL_ERROR),
    "DATA on an idle stream": (frame(0, 0, 5, b"x"), Http2Error.PROTOCOL_ERROR),
    "HEADERS on stream 0": (frame(1, 5, 0, BLOCK), Http2Error.PROTOCOL_ERROR),
    "HEADERS on an even stream": (frame(1, 5, 2, BLOCK), Http2Error.PROTOCOL_ERROR),
    "HEADERS on a stream that was passed over": (
        frame(1, 5, 5, BLOCK) + frame(1, 5, 3, BLOCK),
        Http2Error.STREAM_CLOSED,
    ),
    "HEADERS that depend on themselves": (
        frame(1, 0x25, 1, struct.pack(">IB", 1, 0) + BLOCK),
        Http2Error.PROTOCOL_ERROR,
    ),
    "padding of all the frame": (frame(1, 4, 1, BLOCK) + frame(0, 8, 1, b"\x05abc"), Http2Error.PROTOCOL_ERROR),
    "a block interrupted": (frame(1, 1, 1, BLOCK) + frame(6, 0, 0, bytes(8)), Http2Error.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (frame(9, 4, 1, BLOCK), Http2Error.PROTOCOL_ERROR),
    "CONTINUATION on another stream": (frame(1, 1, 1, BLOCK) + frame(9, 4, 3, b""), Http2Error.PROTOCOL_ERROR),
    "an index beyond the table": (frame(1, 5, 1, b"\xff\xff\x7f"), Http2Error.COMPRESSION_ERROR),
    "a table size beyond what was agreed": (frame(1, 5, 1, b"\x3f\xff\x7f"), Http2Error.COMPRESSION_ERROR),
    "a block cut short": (frame(1, 5, 1, b"\x00\x7f\xff\x03abc"), Http2Error.COMPRESSION_ERROR),
    "RST_STREAM of an idle stream": (frame(3, 0, 9, bytes(4)), Http2Error.PROTOCOL_ERROR),
    "RST_STREAM too short": (frame(3, 0, 1, bytes(3)), Http2Error.FRAME_SIZE_ERROR),
    "PRIORITY too long": (frame(2, 0, 1, bytes(6)), Http2Error.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (frame(4, 0, 1, b""), Http2Error.PROTOCOL_ERROR),
    "SETTINGS of half a setting": (frame(4, 0, 0, bytes(5)), Http2Error.FRAME_SIZE_ERROR),
    "SETTINGS acknowledged with more": (frame(4, 1, 0, bytes(6)), Http2Error.FRAME_SIZE_ERROR),
    "a window beyond the largest": (frame(4, 0, 0, struct.pack(">HI", 4, 1 << 31)), Http2Error.FLOW_CONTROL_ERROR),
    "frames too small": (frame(4, 0, 0, struct.pack(">HI", 5, 16_383)), Http2Error.PROTOCOL_ERROR),
    "push that is neither on nor off": (frame(4, 0, 0, struct.pack(">HI", 2, 2)), Http2Error.PROTOCOL_ERROR),
    "PUSH_PROMISE": (frame(5, 4, 1, b"\0\0\0\x02" + BLOCK), Http2Error.PROTOCOL_ERROR),
    "PING too short": (frame(6, 0, 0, bytes(7)), Http2Error.FRAME_SIZE_ERROR),
    "PING on a stream": (frame(6, 0, 1, bytes(8)), Http2Error.PROTOCOL_ERROR),
    "GOAWAY too short": (frame(7, 0, 0, bytes(7)), Http2Error.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of nothing": (frame(8, 0, 0, bytes(4)), Http2Error.PROTOCOL_ERROR),
    "WINDOW_UPDATE of an idle stream": (frame(8, 0, 1, b"\0\0\0\x01"), Http2Error.PROTOCOL_ERROR),
    "WINDOW_UPDATE beyond all": (frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2, Http2Error.FLOW_CONTROL_ERROR),
    "a frame beyond the limit": (frame(0, 0, 1, bytes(65_537)), Http2Error.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize(("data", "code"), FAILURES.values(), ids=FAILURES)
def test_what_ends_a_connection(served: Served, data: bytes, code: Http2Error) -> None:
    served.feed(GREETING)
    assert ended_with(served.feed(data)) == code
    assert served.transport.finished
    assert served.feed(frame(1, 5, 99, BLOCK)) == b""


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:20] + b"xxxx", PREFACE + frame(6, 0, 0, bytes(8))]
)
def test_what_is_no_greeting_ends_the_connection(served: Served, data: bytes) -> None:
    assert ended_with(served.feed(data)) == Http2Error.PROTOCOL_ERROR


def headers(*pairs: tuple[str, str]) -> bytes:
    return Encoder().encode(pairs, huffman=False)


RIGHT = [(":method", "POST"), (":scheme", "http"), (":path", "/echo")]
MALFORMED = {
    "no path": [*RIGHT[:2]],
    "an empty path": [*RIGHT[:2], (":path", "")],
    "no method": [*RIGHT[1:]],
    "twice the same": [*RIGHT, (":path", "/echo")],
    "an unknown one": [*RIGHT, (":protocol", "websocket")],
    "late": [*RIGHT[:2], ("x", "1"), (":path", "/echo")],
    "capitals": [*RIGHT, ("X-Y", "1")],
    "an empty name": [*RIGHT, ("", "1")],
    "a name with a space": [*RIGHT, ("x y", "1")],
    "a line feed in a value": [*RIGHT, ("x", "1\n2")],
    "space around a value": [*RIGHT, ("x", " 1")],
    "connection": [*RIGHT, ("connection", "close")],
    "transfer-encoding": [*RIGHT, ("transfer-encoding", "chunked")],
    "te of something else": [*RIGHT, ("te", "gzip")],
    "a length that is no number": [*RIGHT, ("content-length", "x")],
    "two lengths": [*RIGHT, ("content-length", "1"), ("content-length", "2")],
}


@pytest.mark.parametrize("pairs", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_head_ends_its_stream_alone(served: Served, pairs: list[tuple[str, str]]) -> None:
    served.feed(GREETING)
    assert resets(served.feed(frame(1, 5, 1, headers(*pairs)))) == {1: Http2Error.PROTOCOL_ERROR}
    assert b"again" in served.feed(frame(1, 4, 3, BLOCK) + frame(0, 1, 3, b"again"))


@pytest.mark.parametrize("body", [b"", b"1234", b"123456"])
def test_a_body_of_another_length_than_was_said_ends_its_stream(served: Served, body: bytes) -> None:
    served.feed(GREETING)
    block = headers(*RIGHT, ("content-length", "5"))
    assert resets(served.feed(frame(1, 4, 1, block) + frame(0, 1, 1, body))) == {1: Http2Error.PROTOCOL_ERROR}
    assert b"12345" in served.feed(frame(1, 4, 3, block) + frame(0, 1, 3, b"12345"))


def test_more_than_the_window_of_a_stream_ends_it() -> None:
    served = Served()
    served.feed(GREETING)
    served.echo.judge = lambda head: Hoards()  # type: ignore[assignment, method-assign]
    said = b"".join(
        served.feed(data) for data in [frame(1, 4, 1, BLOCK), *[frame(0, 0, 1, bytes(65_536)) for _ in range(17)]]
    )
    assert resets(said) == {1: Http2Error.FLOW_CONTROL_ERROR}
    assert resets(served.feed(frame(0, 0, 1, b"still on its way"))) == {}
    served.close()


class Hoards:
    """Takes what it gets, and gives no window back."""

    def open(self, stream: Any) -> Hoards:
        return self

    def receive(self, data: bytes) -> None:
        """It keeps nothing, but does not say so."""

    def cancel(self) -> None:
        """Nor then."""


def test_data_behind_the_end_ends_the_stream(served: Served) -> None:
    served.feed(GREETING)
    later = headers(*RIGHT[:2], (":path", "/later"))
    data = frame(1, 4, 1, later) + frame(0, 1, 1, b"x") + frame(0, 1, 1, b"y")
    assert resets(served.feed(data)) == {1: Http2Error.STREAM_CLOSED}
    assert served.echo.cancelled == [1]
    answered = frame(1, 5, 3, BLOCK) + frame(0, 1, 3, b"y")
    assert resets(served.feed(answered)) == {3: Http2Error.STREAM_CLOSED}


def test_who_does_not_read_is_not_read_from_and_hears_the_rest_later() -> None:
    served = Served(times=10)
    client = Client(served)
    client.h2.increment_flow_control_window(1 << 20)
    client.h2.update_settings({4: 1 << 20})
    client.flush()
    served.connection.pause_writing()
    stream = client.ask(b"x" * 10_000)
    assert served.transport.reading_paused
    assert client.answer(stream) is None
    served.do(served.connection.resume_writing)
    client.flush()
    assert client.answer(stream) == b"x" * 100_000
    assert not served.transport.reading_paused
    served.close()


# Drain


def test_a_drain_takes_what_was_sent_before_the_peer_heard_of_it(served: Served) -> None:
    client = Client(served)
    under_way = client.ask(b"x", "/later")
    served.do(served.connection.shutdown)
    first = served.transport.take()
    assert ended_with(first) == Http2Error.NO_ERROR
    crossing = client.ask(b"y")  # the peer has not heard yet
    assert client.answer(crossing) == b"y"
    (ping,) = [one for one in frames(first) if type(one).__name__ == "PingFrame"]
    served.feed(frame(6, 1, 0, ping.opaque_data))
    assert served.feed(frame(1, 5, crossing + 2, BLOCK)) == b""  # too late: the peer knows, and asks elsewhere
    assert not served.transport.finished
    served.do(served.echo.answer_all)
    client.hear(served.transport.take())
    assert client.answer(under_way) == b"x"
    assert served.transport.finished


def test_a_drain_does_not_wait_for_a_peer_that_says_nothing(served: Served) -> None:
    served.feed(GREETING)
    served.do(served.connection.shutdown)
    served.wait(3)
    assert served.transport.finished


def test_a_greeting_on_its_way_is_taken_with_the_call_behind_it(served: Served) -> None:
    """Its peer connected before it could know; closed then, it would see its call fail."""
    served.do(served.connection.shutdown)
    assert not served.transport.closed
    said = served.feed(GREETING + frame(1, 5, 1, BLOCK))
    assert ended_with(said) == Http2Error.NO_ERROR
    assert [type(one).__name__ for one in frames(said) if one.stream_id == 1] == [
        "HeadersFrame",
        "DataFrame",
        "HeadersFrame",
    ]
    served.wait(3)
    assert served.transport.finished


def test_a_greeting_that_does_not_come_is_not_waited_for_long_in_a_drain(served: Served) -> None:
    served.do(served.connection.shutdown)
    served.wait(3)
    assert served.transport.closed


def test_an_abort_cancels_what_is_under_way(served: Served) -> None:
    client = Client(served)
    stream = client.ask(b"x", "/later")
    served.do(served.connection.abort)
    said = served.transport.take()
    assert resets(said) == {stream: Http2Error.CANCEL}
    assert ended_with(said) == Http2Error.NO_ERROR
    assert served.echo.cancelled == [stream]


# Time


def test_a_preface_that_never_comes_is_not_waited_for(served: Served) -> None:
    served.feed(PREFACE[:5])
    served.wait(9)
    assert not served.transport.closed
    served.wait(3)
    assert served.transport.closed


def test_headers_that_never_end(served: Served) -> None:
    served.feed(GREETING + frame(1, 1, 1, BLOCK))
    assert ended_with(served.wait(12)) == Http2Error.ENHANCE_YOUR_CALM


def test_a_frame_that_never_ends(served: Served) -> None:
    served.feed(GREETING + frame(0, 0, 1, bytes(1000))[:500])
    said = b"".join(served.feed(b"x") + served.wait(1) for _ in range(32))
    assert ended_with(said) == Http2Error.ENHANCE_YOUR_CALM


def test_a_window_that_stays_shut_is_not_waited_for(client: Client) -> None:
    client.h2.update_settings({4: 0})
    client.flush()
    stream = client.ask(b"x")
    said = client.served.wait(33)
    assert resets(said) == {stream: Http2Error.CANCEL}
    assert client.served.connection.waiting_bytes == 0


def test_an_idle_connection_is_closed_and_one_with_calls_is_not(served: Served) -> None:
    client = Client(served)
    client.ask(b"x", "/later")
    served.wait(70)
    assert not served.transport.finished
    served.do(served.echo.answer_all)
    client.flush()
    served.wait(80)
    assert served.transport.finished


def test_a_silent_peer_with_calls_under_way_is_asked_whether_it_is_there(served: Served) -> None:
    Client(served).ask(b"x", "/later")
    said = served.wait(62)
    (ping,) = [one for one in frames(said) if type(one).__name__ == "PingFrame"]
    served.feed(frame(6, 1, 0, ping.opaque_data))
    served.wait(30)
    assert not served.transport.aborted
    served.wait(60)
    assert served.transport.aborted


def test_more_connections_than_there_may_be_are_closed() -> None:
    served = Served(max_connections=1)
    served.open.clear()
    served.open.add("another")
    served.do(lambda: served.connection.connection_made(served.transport))  # type: ignore[arg-type]
    assert served.transport.closed
    assert served.open == {"another"}
    served.close()
