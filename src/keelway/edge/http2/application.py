"""What an HTTP/2 connection asks of those who answer its requests, and what it offers them.

A request is judged once for its headers (``Application``), opened for each time it comes (``Opening``), and then an
exchange of its own: parts of a body in, an answer out. None of these raises anything.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from keelway.edge.http2.request_head import RequestHead
from keelway.edge.http2.streams import Stream


class Response(NamedTuple):
    """A whole answer: two header blocks (``header_blocks.written``) and what stands between. Without ``trailers`` there
    is no body, and the head is all."""

    head: bytes
    body: bytes
    trailers: bytes


class Exchange(Protocol):
    """One request. It ends with ``finish`` and an answer, or with ``cancel``."""

    def receive(self, data: bytes) -> None:
        """A part of the body, behind which more comes. Gives the peer's window back by ``stream.consumed``."""
        ...

    def finish(self, data: bytes) -> Response | None:
        """The last part of the body, often all of it. ``None``: the answer comes later, by the stream."""
        ...

    def cancel(self) -> None:
        """The peer has left, or its time is up: nothing can be answered any more."""
        ...

    def sweep(self, now: float) -> None:
        """Look whether the rest of the body is overdue. ``now`` is on the monotonic clock, in seconds."""
        ...


class Opening(Protocol):
    """The verdict on a head, good for every request that has it."""

    def open(self, stream: Stream) -> Exchange:
        """One request, by ``stream`` from ``stream.peer``."""
        ...


class Application(Protocol):
    """Who answers the requests of a port."""

    def judge(self, head: RequestHead) -> Opening: ...
