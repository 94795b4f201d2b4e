"""How much a peer may do that costs the server more than it costs the peer, and the sizes that this server announces.

Each kind of frame that asks for nothing useful has a budget: a burst that no client with manners needs, refilled as
time passes. Who has spent one is told to calm down, and the connection ends.
"""

from __future__ import annotations

from typing import Final

from keelway.edge.http2.frames import ConnectionFailure, Http2Error

#: Bytes of a body that a peer may send ahead: on one stream, and on all streams of a connection.
STREAM_WINDOW: Final = 1 << 20
CONNECTION_WINDOW: Final = 4 << 20
#: Longest frame that is read, in bytes.
FRAME_SIZE: Final = 1 << 16
#: Streams at once on one connection. A client keeps back what is beyond, so it is more than there are permits by
#: default: a caller should hear that the server is busy, not wait without knowing.
CONCURRENT_STREAMS: Final = 4096
#: Frames that the headers of one request may come in.
HEADER_FRAMES: Final = 32
#: Bytes of answers that may wait for a peer's windows on one connection; more requests are refused then.
WAITING_BYTES: Final = 64 << 20
#: Bytes given to the transport before it is asked whether there is room for more.
SEND_AHEAD: Final = 1 << 18
#: Streams whose end the server has chosen and the peer may not know of yet.
FORGOTTEN_STREAMS: Final = 8192

#: Seconds of silence, with calls under way, after which a peer is asked whether it is there, and that it may take to
#: say so.
PING_AFTER: Final = 60.0
PING_PATIENCE: Final = 20.0


class Budget:
    """``burst`` at once, ``rate`` more a second."""

    __slots__ = ("_burst", "_rate", "_what", "left")

    def __init__(self, what: str, burst: int, rate: int) -> None:
        self._what = what
        self._burst = burst
        self._rate = rate
        self.left: float = burst

    def spend(self) -> None:
        """``ConnectionFailure`` if nothing is left."""
        self.left -= 1
        if self.left < 0:
            raise ConnectionFailure(Http2Error.ENHANCE_YOUR_CALM, f"a flood of {self._what}")

    def refill(self, seconds: float) -> None:
        if self.left < self._burst:
            self.left = min(self._burst, self.left + self._rate * seconds)


class Budgets:
    """Those of one connection. ``resets``: streams that the peer took back, or that it made the server end."""

    __slots__ = ("empty", "other", "pings", "resets", "settings", "window_updates")

    def __init__(self) -> None:
        self.resets = Budget("streams taken back", 500, 200)
        self.settings = Budget("SETTINGS", 100, 10)
        # Clients measure the bandwidth with them, so that busy ones send many.
        self.pings = Budget("PING", 2000, 500)
        self.empty = Budget("empty DATA", 100, 10)
        self.window_updates = Budget("WINDOW_UPDATE", 20_000, 10_000)
        self.other = Budget("frames that ask for nothing", 1000, 100)

    def refill(self, seconds: float) -> None:
        for budget in (self.resets, self.settings, self.pings, self.empty, self.window_updates, self.other):
            budget.refill(seconds)
