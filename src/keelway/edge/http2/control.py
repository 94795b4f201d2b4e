"""The frames that carry no request: SETTINGS, PING, WINDOW_UPDATE, RST_STREAM and the rest (RFC 9113, 6)."""

from __future__ import annotations

from keelway.edge.http2.frames import (
    ACK,
    DEFAULT_TABLE_SIZE,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    GOAWAY,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME_SIZE,
    LARGEST_WINDOW,
    LAST_STREAM,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    SMALLEST_FRAME_SIZE,
    WINDOW_UPDATE,
    ConnectionFailure,
    Http2Error,
    frame,
    settings_frame,
    window_update,
)
from keelway.edge.http2.header_blocks import NO_TABLE
from keelway.edge.http2.limits import CONCURRENT_STREAMS, CONNECTION_WINDOW, FRAME_SIZE, STREAM_WINDOW, Budgets
from keelway.edge.http2.sending import SendingSide

_OF_CONNECTION = frozenset({SETTINGS, PING, GOAWAY})
_SIZES = {RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4, PRIORITY: 5}
#: Settings in one frame.
_SETTINGS = 32


class ControlFrames(SendingSide):
    """``last_stream`` is the last that the peer has begun."""

    def __init__(self, max_header_bytes: int) -> None:
        super().__init__()
        self.budgets = Budgets()
        self.last_stream = 0
        self._max_header_bytes = max_header_bytes
        self._table_dropped = False

    def greet(self) -> None:
        """The server's part of the preface, and a window for the connection."""
        settings = (
            (MAX_CONCURRENT_STREAMS, CONCURRENT_STREAMS),
            (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (MAX_FRAME_SIZE, FRAME_SIZE),
            (MAX_HEADER_LIST_SIZE, self._max_header_bytes),
        )
        self.out.append(settings_frame(settings) + window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW))

    def pong(self, payload: bytes) -> None:
        """The peer has answered a PING."""

    def control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Do what a frame says that is none of DATA, HEADERS and CONTINUATION. ``ConnectionFailure`` if it may not."""
        if _SIZES.get(kind, len(payload)) != len(payload):
            raise ConnectionFailure(Http2Error.FRAME_SIZE_ERROR, "a frame of the wrong size")
        if kind == WINDOW_UPDATE:
            self.budgets.window_updates.spend()
            self._window_update(number, int.from_bytes(payload, "big") & LARGEST_WINDOW)
        elif kind in _OF_CONNECTION:
            if number:
                raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "a frame of the connection on a stream")
            self._of_connection(kind, flags, payload)
        elif kind == RST_STREAM:
            self.budgets.resets.spend()
            self._reset(number)
        elif kind == PUSH_PROMISE:
            raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "a promise of a client")
        else:
            self.budgets.other.spend()
            if kind == PRIORITY and (not number or int.from_bytes(payload[:4], "big") & LAST_STREAM == number):
                raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "a priority of no stream, or of itself")

    def _of_connection(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == PING:
            self.budgets.pings.spend()
            if flags & ACK:
                self.pong(payload)
            else:
                self.out.append(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS:
            self.budgets.settings.spend()
            self._read_settings(flags, payload)
        else:
            self.budgets.other.spend()
            if len(payload) < 8:
                raise ConnectionFailure(Http2Error.FRAME_SIZE_ERROR, "GOAWAY too short")

    def _read_settings(self, flags: int, payload: bytes) -> None:
        if len(payload) % SETTING.size or (flags & ACK and payload):
            raise ConnectionFailure(Http2Error.FRAME_SIZE_ERROR, "SETTINGS of the wrong size")
        if flags & ACK:
            return
        if len(payload) > _SETTINGS * SETTING.size:
            raise ConnectionFailure(Http2Error.ENHANCE_YOUR_CALM, "too many settings")
        # Acknowledged first: what new windows let out stands behind it, and not before the peer goes by them.
        self.out.append(frame(SETTINGS, ACK, 0))
        for name, value in SETTING.iter_unpack(payload):
            self._set(name, value)

    def _set(self, name: int, value: int) -> None:
        if name == INITIAL_WINDOW_SIZE:
            if value > LARGEST_WINDOW:
                raise ConnectionFailure(Http2Error.FLOW_CONTROL_ERROR, "a window beyond the largest")
            self.initial_window_changed(value)
        elif name == MAX_FRAME_SIZE:
            if not SMALLEST_FRAME_SIZE <= value <= LARGEST_FRAME_SIZE:
                raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "a frame size that may not be")
            self.frame_size = min(value, FRAME_SIZE)
        elif name == ENABLE_PUSH:
            if value > 1:
                raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "a setting that may not be")
        elif name == HEADER_TABLE_SIZE and value < DEFAULT_TABLE_SIZE and not self._table_dropped:
            # The table is not used, but a smaller one has to be confirmed (RFC 7541, 4.2).
            self._table_dropped = True
            self.block_prefix = NO_TABLE

    def _window_update(self, number: int, increment: int) -> None:
        if number > self.last_stream or (number and not number & 1):
            raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that has not begun")
        stream = self.streams.get(number)
        if not increment:
            if stream is None:
                raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self.budgets.resets.spend()
            self.reset_stream(stream, Http2Error.PROTOCOL_ERROR)
        elif not number:
            self.opened(increment)
        elif stream is not None:
            self.stream_opened(stream, increment)

    def _reset(self, number: int) -> None:
        if number > self.last_stream or not number & 1:
            raise ConnectionFailure(Http2Error.PROTOCOL_ERROR, "RST_STREAM on a stream that has not begun")
        stream = self.streams.get(number)
        if stream is not None:
            self.drop(stream)
