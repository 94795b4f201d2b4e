"""Any peer at all: the library h2 in any order of its moves, and bytes that nobody would send. # R3

h2 raises where the server breaks RFC 9113: frames on streams that are over, more than a window, header blocks that
cannot be read.
"""

from __future__ import annotations

import struct

from h2.exceptions import StreamClosedError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from tests.edge.http2.peers import GREETING, Client, Served, frames

from keelway.edge.http2.frames import frame

BODIES = st.sampled_from([0, 1, 7, 100, 5_000, 16_384]).map(lambda size: bytes(i & 0xFF for i in range(size)))
PATHS = st.sampled_from(["/echo", "/later"])


class Conversation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.served = Served(times=3)
        self.client = Client(self.served)
        self.sent: dict[int, bytes] = {}
        self.open: dict[int, None] = {}
        self.reset: set[int] = set()
        self.acknowledged = 0

    def some(self, pick: int) -> int:
        return list(self.open)[pick % len(self.open)]

    @rule(path=PATHS, more=st.lists(st.sampled_from([("x-a", "1"), ("x-b", "2" * 50), ("te", "trailers")]), max_size=3))
    def begin(self, path: str, more: list[tuple[str, str]]) -> None:
        stream = self.client.h2.get_next_available_stream_id()
        pairs = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here"), *more]
        self.client.h2.send_headers(stream, pairs)
        self.sent[stream], self.open[stream] = b"", None

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 99), body=BODIES, padding=st.none() | st.integers(0, 255), end=st.booleans())
    def send(self, pick: int, body: bytes, padding: int | None, end: bool) -> None:
        stream = self.some(pick)
        room = min(self.client.h2.local_flow_control_window(stream), self.client.h2.max_outbound_frame_size) - (
            0 if padding is None else padding + 1
        )
        if room < len(body):
            return
        self.client.h2.send_data(stream, body, end_stream=end, pad_length=padding)
        self.sent[stream] += body
        if end:
            del self.open[stream]

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 99))
    def trail(self, pick: int) -> None:
        stream = self.some(pick)
        self.client.h2.send_headers(stream, [("checksum", "1")], end_stream=True)
        del self.open[stream]

    @precondition(lambda self: self.sent.keys() - self.reset)
    @rule(pick=st.integers(0, 99))
    def take_back(self, pick: int) -> None:
        streams = sorted(self.sent.keys() - self.reset)
        stream = streams[pick % len(streams)]
        try:
            self.client.h2.reset_stream(stream)
        except StreamClosedError:
            return
        self.reset.add(stream)
        self.open.pop(stream, None)

    @rule(cuts=st.lists(st.integers(0, 3000), max_size=4))
    def flush(self, cuts: list[int]) -> None:
        self.client.flush(*cuts)

    @rule()
    def answer(self) -> None:
        self.client.flush()
        self.served.do(self.served.echo.answer_all)
        self.client.flush()

    @rule(size=st.sampled_from([0, 1, 100, 65_535, 1 << 20]))
    def window(self, size: int) -> None:
        self.update({4: size})

    @rule(size=st.sampled_from([0, 64, 4096]))
    def table(self, size: int) -> None:
        self.update({1: size})

    def update(self, changed: dict[int, int]) -> None:
        # One after the other: h2 takes the first acknowledgement for that of every setting under way.
        self.client.flush()
        self.client.h2.update_settings(changed)

    @rule()
    def ping(self) -> None:
        self.client.h2.ping(b"12345678")

    @rule()
    def take(self) -> None:
        """Give the windows back for what was heard."""
        for event in self.client.events[self.acknowledged :]:
            size = getattr(event, "flow_controlled_length", 0)
            if size:
                try:
                    self.client.h2.acknowledge_received_data(size, event.stream_id)
                except StreamClosedError:
                    self.client.h2.increment_flow_control_window(size)
        self.acknowledged = len(self.client.events)

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.served.close()

    def settle(self) -> None:
        """Whatever was asked and not taken back is answered in full, once the windows are open."""
        self.client.flush()
        for stream in self.open:
            self.client.h2.end_stream(stream)
        self.client.h2.update_settings({4: 1 << 20})
        self.client.h2.increment_flow_control_window(1 << 28)
        self.answer()
        while self.acknowledged < len(self.client.events):
            self.take()
            self.answer()
        assert not self.served.connection.failed
        for stream, body in self.sent.items():
            if stream not in self.reset:
                assert self.client.answer(stream) == 3 * body
        assert not self.served.connection.streams
        assert self.served.connection.waiting_bytes == 0


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
TestConversation = Conversation.TestCase

BLOCK = b"\x83\x86\x44\x05/echo"
ANY_FRAME = st.builds(
    frame,
    st.integers(0, 12),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x25, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 5, 0x7FFFFFFF]),
    st.binary(max_size=60) | st.just(BLOCK) | st.just(struct.pack(">HI", 4, 0)),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(data=st.lists(ANY_FRAME | st.binary(max_size=40), max_size=12), cuts=st.lists(st.integers(0, 500), max_size=5))
def test_no_bytes_raise_and_what_is_said_is_frames(data: list[bytes], cuts: list[int]) -> None:
    served = Served()
    try:
        told(served, data, cuts)
    finally:
        served.close()
    assert not served.open
    assert not served.connection.streams


def told(served: Served, data: list[bytes], cuts: list[int]) -> None:
    whole = GREETING + b"".join(data)
    said = b""
    for start, end in zip((0, *sorted(cuts)), (*sorted(cuts), None), strict=True):
        said += served.feed(whole[start:end])
    said += served.wait(2)
    frames(said)
