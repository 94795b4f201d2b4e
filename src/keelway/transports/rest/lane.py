"""Inference on the fast lane: what ``door.py`` does for a request that arrives in ASGI, for one that needs none.

A head is judged once and its verdict kept, since the same few heads come again and again. Whatever is not plainly
right (a wrong type, an unknown host, a body of unknown length) takes the usual way, where ``door.py``
says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from keelway.batching.waiting import Waiting
from keelway.config import HttpSettings, LimitSettings
from keelway.dataplane import Answer, DataPlane, InferenceCall
from keelway.edge.fast_lane import Headers, Reply
from keelway.errors import Cancelled, KeelwayError
from keelway.guard.auth import Authenticator, Credentials, NotYet
from keelway.guard.introductions import unforeseen
from keelway.observe.request_ids import RequestIds
from keelway.transports.rest.door import (
    check_media,
    header_length_of,
    only_model,
    priority_of,
    reply_headers,
    timeout_of,
)
from keelway.transports.rest.errors import HttpRefusal, error_reply
from keelway.transports.rest.hosts import OriginPolicy
from keelway.transports.rest.paths import InferencePaths, InferenceRoute
from keelway.types import Peer, Principal, Priority

Replied = Callable[[Reply | None], None]

_REMEMBERED = 512
#: A head of more bytes than that is judged anew each time.
_REMEMBERED_BYTES = 2048
#: Headers that change how a connection or a body is read.
_SPECIAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer"})


class Opening(NamedTuple):
    """The verdict on a head: where it leads, and what it says of time and of its body."""

    route: InferenceRoute
    seconds: float
    header_length: int | None
    priority: Priority
    length: int
    credentials: Credentials
    forwarded: bytes


class InferenceLane:
    """``closing`` says that connections should not be reused any more."""

    def __init__(
        self,
        plane: DataPlane,
        http: HttpSettings,
        limits: LimitSettings,
        origins: OriginPolicy,
        ids: RequestIds,
        paths: InferencePaths,
        closing: Callable[[], bool],
        authenticator: Authenticator,
    ) -> None:
        self.plane = plane
        self.authenticator = authenticator
        self.ids = ids
        self._max_body_bytes = http.max_body_bytes
        self._request_timeout = limits.request_timeout
        self._origins = origins
        self._paths = paths
        self._closing = closing
        self._verdicts: dict[tuple[object, ...], Opening | None] = {}

    @property
    def closing(self) -> bool:
        return self._closing()

    def judge(self, target: bytes, headers: Headers) -> Opening | None:
        """See ``keelway.edge.fast_lane.Lane``."""
        key = (target, *headers)
        if key in self._verdicts:
            return self._verdicts[key]
        opening = self._judge(target, headers)
        if len(target) + sum(len(name) + len(value) for name, value in headers) <= _REMEMBERED_BYTES:
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            self._verdicts[key] = opening
        return opening

    def open(self, verdict: Opening, peer: Peer) -> InferenceExchange | Refusal | None:
        """Comes by the gate, for a caller who is known. Who is not known without waiting waits at the door, which reads
        no body before."""
        peer = self.plane.gate.proxies.behind(peer, verdict.forwarded)
        try:
            principal = self.authenticator.principal(verdict.credentials, peer)
        except KeelwayError as error:
            return Refusal(self, verdict, error)
        except NotYet:
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
            return Refusal(self, verdict, unforeseen(error))
        refused = self.plane.gate.enter(verdict.priority, principal, peer)
        if refused is not None:
            # Under overload most requests come here: to refuse one must cost less than to answer it.
            return Refusal(self, verdict, refused, by_gate=True)
        return InferenceExchange(self, verdict, self.plane.clock.monotonic() + verdict.seconds, principal, peer)

    def _judge(self, target: bytes, headers: Headers) -> Opening | None:
        if b"%" in target or b"?" in target or not target.isascii():
            return None
        route = self._paths.find(target.decode("ascii"))
        given = dict(headers)
        if route is None or len(given) != len(headers) or not _SPECIAL.isdisjoint(given):
            return None
        if given.get(b"connection", b"keep-alive").lower() != b"keep-alive" or not self._fits(given):
            return None
        try:
            self._origins.check(given, "POST")
            check_media(given)
            return Opening(
                route,
                timeout_of(given, self._request_timeout),
                header_length_of(given),
                priority_of(given),
                int(given[b"content-length"]),
                self.authenticator.present(headers),
                self.plane.gate.proxies.forwarded(headers),
            )
        except (KeelwayError, HttpRefusal):
            return None

    def _fits(self, headers: Mapping[bytes, bytes]) -> bool:
        length = headers.get(b"content-length", b"")
        return length.isdigit() and len(length) < 16 and int(length) <= self._max_body_bytes


class Refusal:
    """A request that is refused for its head. Its body is let pass, so that the caller hears why, and never kept."""

    reads_body: Final = False
    __slots__ = ("_by_gate", "_error", "_lane", "_opening")

    def __init__(self, lane: InferenceLane, opening: Opening, error: KeelwayError, *, by_gate: bool = False) -> None:
        self._by_gate = by_gate
        self._lane = lane
        self._opening = opening
        self._error = error

    def answer(self, body: bytes, replied: Replied) -> Reply:
        error, route = self._error, self._opening.route
        plane = self._lane.plane
        (plane.refused if self._by_gate else plane.turned_away)(route.transport, error)
        return Reply(*error_reply(error, route.error_body, self._lane.ids.next()))

    def abandon(self) -> None:
        """It holds nothing."""


def _nobody(reply: Reply | None) -> None:
    """Everybody has been told."""


class InferenceExchange:
    """One request in flight. It holds a permit until it is answered, settled or abandoned."""

    reads_body: Final = True
    __slots__ = ("_deadline", "_lane", "_opening", "_peer", "_principal", "_replied", "_request_id")

    def __init__(
        self, lane: InferenceLane, opening: Opening, deadline: float, principal: Principal, peer: Peer
    ) -> None:
        self._principal = principal
        self._peer = peer
        self._lane = lane
        self._opening = opening
        self._deadline = deadline
        self._request_id = ""

    def answer(self, body: bytes, replied: Replied) -> Reply | Waiting[Answer]:
        plane = self._lane.plane
        opening = self._opening
        route = opening.route
        self._request_id = request_id = self._lane.ids.next()
        try:
            model = route.model or only_model(plane.snapshot)
            answer = plane.infer(
                InferenceCall(
                    model,
                    route.selector,
                    route.codec,
                    body,
                    route.transport,
                    request_id,
                    self._deadline,
                    opening.header_length,
                    self._principal,
                    opening.priority,
                    self._peer,
                )
            )
        except KeelwayError as error:
            plane.gate.leave(self._principal)
            return self._refused(error)
        if isinstance(answer, Answer):
            plane.gate.leave(self._principal)
            return self._answered(answer)
        self._replied = replied
        answer.then(self._settle)
        return answer

    def _settle(self, outcome: Answer | Exception | None) -> None:
        self._lane.plane.gate.leave(self._principal)
        # Whoever is told keeps the exchange: let go of, or they would be left to the collector.
        replied, self._replied = self._replied, _nobody
        if isinstance(outcome, Answer):
            replied(self._answered(outcome))
        elif isinstance(outcome, KeelwayError) and not isinstance(outcome, Cancelled):
            replied(self._refused(outcome))
        else:
            replied(None)

    def abandon(self) -> None:
        self._lane.plane.gate.leave(self._principal)

    def _answered(self, answer: Answer) -> Reply:
        return Reply(200, reply_headers(answer, self._opening.route, self._request_id), answer.encoded.body)

    def _refused(self, error: KeelwayError) -> Reply:
        return Reply(*error_reply(error, self._opening.route.error_body, self._request_id))
