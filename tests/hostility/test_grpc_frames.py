"""Frames that HTTP/2 or gRPC does not know, on the gRPC port: the stream or the connection is ended, no call fails for
the server's part, and nobody else is touched. # G2 R3
"""

from __future__ import annotations

import struct

import pytest
from hyperframe.frame import SettingsFrame
from hypothesis import strategies as st
from tests.hostility.attack import Attack, Peer, for_each, sizes
from tests.hostility.grpc_peers import (
    GREETING,
    INFER,
    PREFACE,
    call,
    call_headers,
    data_frame,
    expect_only,
    headers_frame,
    infer_message,
    prefixed,
    raw_frame,
    says,
)

RIGHT = call(1, infer_message())
#: Every type of frame, and some that there are not.
FRAMES = st.builds(
    raw_frame,
    st.integers(0, 12) | st.integers(0, 255),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]),
    st.binary(max_size=80),
    st.none() | st.sampled_from([0, 1, 4, 8, 16384, 16385, 0xFFFFFF]),
)


def test_a_right_call_is_answered(grpc_attack: Attack) -> None:
    """What all others are a change of."""
    assert says(grpc_attack, RIGHT) == ["OK"]


@pytest.mark.usefixtures("breaks_the_protocol")
@sizes("examples", quick=30, slow=600)
def test_random_bytes_behind_the_preface(grpc_attack: Attack, examples: int) -> None:
    for_each(examples, st.binary(min_size=9, max_size=2000), lambda data: says(grpc_attack, data, pause=0.02))


@pytest.mark.usefixtures("breaks_the_protocol")
@sizes("examples", quick=60, slow=1200)
def test_random_frames_around_a_right_call(grpc_attack: Attack, examples: int) -> None:
    some = st.lists(FRAMES, max_size=6).map(b"".join)
    around = st.tuples(some, some).map(lambda pair: pair[0] + RIGHT + pair[1])
    for_each(
        examples,
        around,
        lambda data: says(grpc_attack, data, pause=0.02),
    )


@pytest.mark.usefixtures("breaks_the_protocol")
@sizes("examples", quick=60, slow=1200)
def test_right_calls_with_slips(grpc_attack: Attack, examples: int) -> None:
    whole = GREETING + RIGHT

    @st.composite
    def slips(draw: st.DrawFn) -> bytes:
        data = whole
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, len(data)))
            end = min(len(data), start + draw(st.integers(0, 10)))
            data = data[:start] + draw(st.binary(max_size=6)) + data[end:]
        return data

    for_each(
        examples,
        slips(),
        lambda data: says(grpc_attack, data, greeting=b"", pause=0.02),
    )


@sizes("step", quick=9, slow=1)
def test_calls_cut_at_every_byte(grpc_attack: Attack, step: int) -> None:
    for end in range(0, len(GREETING + RIGHT), step):
        for leave in (Peer.finish, Peer.close, Peer.reset):
            peer = grpc_attack.connect()
            peer.send((GREETING + RIGHT)[:end], requests=1)
            leave(peer)
            if leave is Peer.finish:
                peer.read(1000)
                peer.close()


GREETINGS = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    b"PRI * HTTP/2.0\n\nSM\n\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"\0" * 100,
    PREFACE[:-1],
    PREFACE + PREFACE,
    PREFACE + raw_frame(0, 0, 0, b""),
    PREFACE + raw_frame(4, 0, 1, b""),
    PREFACE + raw_frame(4, 0, 0, b"12345"),
    PREFACE + raw_frame(4, 1, 0, b"123456"),
    PREFACE + raw_frame(4, 0, 0, struct.pack(">HI", 4, 0x80000000)),
    PREFACE + raw_frame(4, 0, 0, struct.pack(">HI", 5, 1)),
    PREFACE + raw_frame(4, 0, 0, struct.pack(">HI", 2, 7)),
    PREFACE + raw_frame(4, 0, 0, b"", length=0xFFFFFF),
)


def test_greetings_that_are_none(grpc_attack: Attack) -> None:
    for greeting in GREETINGS:
        expect_only(says(grpc_attack, RIGHT, greeting=greeting), "connection ended", "stream reset", "OK")


REFUSALS = (
    *("UNIMPLEMENTED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "NOT_FOUND"),
    *("UNAVAILABLE", "INTERNAL", "connection ended", "stream reset", "400", "404", "405", "415"),
)
WRONG = {
    "DATA on no stream": raw_frame(0, 1, 0, b"x"),
    "DATA on a stream that never began": raw_frame(0, 1, 7, b"x"),
    "DATA after the end": RIGHT + data_frame(1, b"more"),
    "padding longer than its frame": headers_frame(1, call_headers()) + raw_frame(0, 9, 1, b"\xff1234"),
    "HEADERS on no stream": raw_frame(1, 5, 0, b"\x82"),
    "HEADERS on a stream of the server's": raw_frame(1, 5, 2, b"\x82"),
    "HEADERS on a stream of the past": call(5, infer_message()) + call(3, infer_message()),
    "HEADERS that depend on themselves": raw_frame(1, 0x25, 1, struct.pack(">IB", 1, 0) + b"\x82"),
    "HEADERS broken by another frame": raw_frame(1, 0, 1, b"\x82") + raw_frame(6, 0, 0, b"12345678"),
    "CONTINUATION of nothing": raw_frame(9, 4, 1, b"\x82"),
    "CONTINUATION on another stream": raw_frame(1, 0, 1, b"\x82") + raw_frame(9, 4, 3, b"\x82"),
    "RST_STREAM of nothing": raw_frame(3, 0, 9, b"\0\0\0\x08"),
    "RST_STREAM too short": raw_frame(3, 0, 1, b"\0"),
    "PRIORITY too long": raw_frame(2, 0, 1, b"123456"),
    "PUSH_PROMISE": raw_frame(5, 4, 1, b"\0\0\0\x02\x82"),
    "PING too short": raw_frame(6, 0, 0, b"1234"),
    "PING on a stream": raw_frame(6, 0, 1, b"12345678"),
    "GOAWAY too short": raw_frame(7, 0, 0, b"1"),
    "WINDOW_UPDATE of nothing": raw_frame(8, 0, 0, b"\0\0\0\0"),
    "WINDOW_UPDATE beyond all": raw_frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "a frame beyond the limit": raw_frame(0, 0, 1, bytes(20_000)),
    "a frame of no type": raw_frame(0xEE, 0xFF, 1, b"whatever"),
    "reserved bits": raw_frame(6, 0, 0x80000000, b"12345678"),
    "a header table beyond the end": raw_frame(1, 5, 1, b"\xff\xff\xff\xff\x7f"),
    "a header table size beyond the limit": raw_frame(1, 5, 1, b"\x3f\xff\xff\xff\x7f\x82"),
    "Huffman codes without an end": raw_frame(1, 5, 1, b"\x00\x84\xff\xff\xff\xff\x81\x00"),
    "a header longer than its block": raw_frame(1, 5, 1, b"\x00\x7f\xff\x03abc"),
}


@pytest.mark.usefixtures("breaks_the_protocol")
def test_frames_out_of_order_and_out_of_shape(grpc_attack: Attack) -> None:
    """The right call behind them is answered or not: that is the connection's affair. No call fails."""
    for name, wrong in WRONG.items():
        expect_only(says(grpc_attack, wrong + call(11, infer_message())), "OK", *REFUSALS, name=name)


BODIES = {
    "no prefix": b"",
    "half a prefix": b"\0\0\0",
    "a message cut short": prefixed(infer_message())[:-5],
    "a length too long": prefixed(infer_message(), length=10_000),
    "a length beyond the limit": prefixed(b"", length=0x7FFFFFFF),
    "a length too short": prefixed(infer_message(), length=10),
    "two messages": prefixed(infer_message()) * 2,
    "compressed with nothing": prefixed(infer_message(), flag=1),
    "a flag that there is not": prefixed(infer_message(), flag=0xFE),
    "no message": prefixed(b""),
    "garbage": prefixed(b"\xff" * 100),
}


@pytest.mark.usefixtures("breaks_the_protocol")
def test_bodies_that_are_no_message(grpc_attack: Attack) -> None:
    for name, body in BODIES.items():
        found = says(grpc_attack, headers_frame(1, call_headers()) + data_frame(1, body))
        # Of two messages the first is the request.
        expect_only(found, *REFUSALS, *(["OK"] if name == "two messages" else []), name=name)


HEADERS = {
    "an unknown method": call_headers("/inference.GRPCInferenceService/Nothing"),
    "an unknown service": call_headers("/nobody.Nothing/ModelInfer"),
    "no path at all": call_headers(""),
    "a path without a slash": call_headers("inference"),
    "a path of rubbish": call_headers("/" + "\xff\0 " * 50),
    "a path without an end": call_headers("/" + "a" * 10_000),
    "GET": call_headers(method="GET"),
    "no method": call_headers(method=None),
    "no scheme": call_headers(scheme=None),
    "no authority": call_headers(authority=None),
    "another content type": call_headers(content_type="application/json"),
    "no content type": call_headers(content_type=None),
    "grpc-web": call_headers(content_type="application/grpc-web"),
    "no te": call_headers(te=None),
    "an encoding that there is not": call_headers(INFER, ("grpc-encoding", "nothing")),
    "gzip that is none": call_headers(INFER, ("grpc-encoding", "gzip")),
    "a timeout of rubbish": call_headers(INFER, ("grpc-timeout", "soon")),
    "a negative timeout": call_headers(INFER, ("grpc-timeout", "-1S")),
    "a timeout of years": call_headers(INFER, ("grpc-timeout", "99999999H")),
    "a timeout of nothing": call_headers(INFER, ("grpc-timeout", "0n")),
    "two timeouts": call_headers(INFER, ("grpc-timeout", "1S"), ("grpc-timeout", "2S")),
    "capitals": call_headers(INFER, ("X-Capital", "1")),
    "connection": call_headers(INFER, ("connection", "close")),
    "a pseudo header late": call_headers(INFER, (":path", INFER)),
    "an unknown pseudo header": [(":unknown", "1"), *call_headers()],
    "a length that lies": call_headers(INFER, ("content-length", "5")),
    "binary that is no base64": call_headers(INFER, ("x-bin", "***")),
    "bytes in text": call_headers(INFER, (b"x-text", b"\x00\xff\r\n")),
    "an empty name": call_headers(INFER, ("", "1")),
    "the same a hundred times": call_headers(INFER, *[("x-same", str(number)) for number in range(100)]),
}


@pytest.mark.usefixtures("breaks_the_protocol")
def test_headers_of_no_call(grpc_attack: Attack) -> None:
    for name, headers in HEADERS.items():
        for flag in (0, 1):
            data = headers_frame(1, headers) + data_frame(1, prefixed(infer_message(), flag=flag))
            expect_only(says(grpc_attack, data), "OK", *REFUSALS, name=name)


def test_the_headers_end_the_call(grpc_attack: Attack) -> None:
    found = says(grpc_attack, headers_frame(1, call_headers(), ("END_HEADERS", "END_STREAM")))
    assert "OK" not in found
    expect_only(found, *REFUSALS)


def test_settings_that_change_while_calls_run(grpc_attack: Attack) -> None:
    changing = b"".join(
        call(2 * number + 1, infer_message()) + SettingsFrame(0, settings={4: number * 1000, 5: 16_384}).serialize()
        for number in range(50)
    )
    assert says(grpc_attack, changing, requests=50, pause=2.0).count("OK") > 0
