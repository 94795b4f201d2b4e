"""One request on the request line: what a transport hands over, what the stages have found out, what goes back.

No stage stands here; their order is the business of ``dataplane.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from keelway.batching.waiting import Waiting
from keelway.cache.flight import Flight
from keelway.ports import Codec, Encoded
from keelway.routing.snapshot import Batches, ServedVersion, Usual
from keelway.types import (
    ANONYMOUS,
    NOBODY,
    BoundRequest,
    InferenceRequest,
    Peer,
    Principal,
    Priority,
)


class InferenceCall(msgspec.Struct, frozen=True, gc=False):
    """One request as a transport hands it over. ``selector`` is a version, an alias or ``None``; an empty ``model``
    says that the body names both. ``deadline`` is on the monotonic clock, in seconds; ``header_length`` is that of the
    binary tensor extension. ``principal`` is who asks, ``peer`` the connection that it came by."""

    model: str
    selector: str | None
    codec: Codec
    body: bytes
    transport: str
    request_id: str
    deadline: float
    header_length: int | None = None
    principal: Principal = ANONYMOUS
    priority: Priority = Priority.INTERACTIVE
    peer: Peer = NOBODY


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An encoded reply and the version that really gave it. ``cache_status`` is what the cache did for it, as RFC 9211
    writes it, empty where there is none. ``rate_limit`` is the field ``RateLimit``, empty where no rule is for it."""

    encoded: Encoded
    version: ServedVersion
    cache_status: bytes = b""
    rate_limit: bytes = b""


class Passage(msgspec.Struct):
    """What the stages of one request have found out so far. Never leaves the request line. ``usual`` is what is asked
    about its rows as long as nobody has validated them."""

    call: InferenceCall
    started: float
    times: list[float] | None
    version: ServedVersion | None = None
    request: InferenceRequest | None = None
    bound: BoundRequest | None = None
    wanted: tuple[str, ...] = ()
    shares: bool = False
    charged: bool = False
    rate_limit: bytes = b""
    cache: str = ""
    flight: Flight | None = None
    usual: Usual | None = None


class Sharing(NamedTuple):
    """A request whose rows share a run, and the answer that waits for it. Never leaves the request line."""

    passage: Passage
    version: ServedVersion
    request: InferenceRequest
    batcher: Batches
    answer: Waiting[Answer]
