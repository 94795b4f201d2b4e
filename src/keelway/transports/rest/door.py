"""The door: one raw ASGI application. Inference goes straight to the request line, the rest to Starlette.

Both share one check of the Host and Origin headers. A reply names the version and digest that gave it: in its body, or
in headers on the route families whose body has no place for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any

from keelway.batching.waiting import Waiting
from keelway.codecs.json import JSON, OCTETS
from keelway.config import HttpSettings, LimitSettings
from keelway.dataplane import Answer, DataPlane, InferenceCall
from keelway.errors import Cancelled, InvalidInput, KeelwayError, NotFound
from keelway.guard.auth import Authenticator
from keelway.guard.introductions import unforeseen
from keelway.observe.request_ids import RequestIds
from keelway.routing.snapshot import ServingSnapshot
from keelway.transports.rest.access import EXEMPT
from keelway.transports.rest.errors import HttpRefusal, error_body_of, error_reply
from keelway.transports.rest.hosts import OriginPolicy
from keelway.transports.rest.paths import InferencePaths, InferenceRoute
from keelway.types import ANONYMOUS, NOBODY, Peer, Principal, Priority

log = logging.getLogger("keelway.rest")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_DISCARD_LIMIT = 256 * 1024 * 1024
_CLOSE = ((b"connection", b"close"),)
_MEDIA_TYPES = (JSON, OCTETS)
_PRIORITIES = {priority.name.lower().encode(): priority for priority in Priority}


class Door:
    """``rest`` answers whatever is no inference, and finds in its scope who asks: ``principal``. Anybody may have
    ``open_paths``. ``closing`` says that connections should not be reused any more."""

    def __init__(
        self,
        plane: DataPlane,
        http: HttpSettings,
        limits: LimitSettings,
        origins: OriginPolicy,
        ids: RequestIds,
        paths: InferencePaths,
        rest: Application,
        closing: Callable[[], bool],
        authenticator: Authenticator,
        open_paths: Collection[str],
    ) -> None:
        self._open = open_paths
        self._plane = plane
        self._authenticator = authenticator
        self._max_body_bytes = http.max_body_bytes
        self._request_timeout = limits.request_timeout
        self._origins = origins
        self._rest = rest
        self._closing = closing
        self._paths = paths
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        request_id = self._ids.next()
        route = self._paths.find(scope["path"])
        body_of = route.error_body if route is not None else error_body_of(scope["path"])
        try:
            self._origins.check(headers, scope["method"])
            peer = self._caller(scope)
            arrived = self._plane.clock.monotonic()
            if route is None and scope["path"] in self._open:
                principal = ANONYMOUS
            else:
                principal = await self._introduced(route, scope, headers, peer)
            if route is None:
                scope["request_id"] = request_id
                scope["principal"] = principal
                if scope["path"] not in EXEMPT:
                    self._plane.gate.pass_by(principal, peer)
                await self._rest(scope, receive, send)
                return
            if scope["method"] != "POST":
                raise HttpRefusal(405, "inference takes POST", ((b"allow", b"POST"),))
            answer = await self._infer(route, headers, request_id, receive, principal, peer, arrived)
        except (KeelwayError, HttpRefusal) as error:
            if isinstance(error, Cancelled):
                return
            status, headers_of_reply, body = error_reply(error, body_of, request_id)
        else:
            status, body = 200, answer.encoded.body
            headers_of_reply = reply_headers(answer, route, request_id)
        if self._closing():
            headers_of_reply.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers_of_reply})
        await send({"type": "http.response.body", "body": body})

    async def _introduced(
        self, route: InferenceRoute | None, scope: Scope, headers: Mapping[bytes, bytes], peer: Peer
    ) -> Principal:
        """Who asks; nothing of the body is read before."""
        seconds = self._request_timeout
        with contextlib.suppress(InvalidInput):  # which is told to those who are known
            seconds = timeout_of(headers, seconds)
        try:
            return await self._authenticator.later(self._authenticator.present(scope["headers"]), peer, seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
            refused = error if isinstance(error, KeelwayError) else unforeseen(error)
            if route is not None:
                self._plane.turned_away(route.transport, refused)
            raise refused from None

    async def _infer(
        self,
        route: InferenceRoute,
        headers: Mapping[bytes, bytes],
        request_id: str,
        receive: Receive,
        principal: Principal,
        peer: Peer,
        arrived: float,
    ) -> Answer:
        plane = self._plane
        check_media(headers)
        length = content_length(headers)
        deadline = arrived + timeout_of(headers, self._request_timeout)
        priority = priority_of(headers)
        self._enter(route, priority, principal, peer)
        try:
            message = await receive()
            body = message.get("body", b"")
            size = max(length, len(body))
            if size > self._max_body_bytes or message.get("more_body") or message["type"] != "http.request":
                body = await self._rest_of_body(message, receive, length)
            model = route.model or only_model(plane.snapshot)
            header_length = header_length_of(headers)
            answer = plane.infer(
                InferenceCall(
                    model,
                    route.selector,
                    route.codec,
                    body,
                    route.transport,
                    request_id,
                    deadline,
                    header_length,
                    principal,
                    priority,
                    peer,
                )
            )
            return answer if isinstance(answer, Answer) else await _while_connected(answer, receive)
        finally:
            plane.gate.leave(principal)

    def _caller(self, scope: Scope) -> Peer:
        """Who calls, which is told to whoever looks at the scope."""
        near, proxies = peer_of(scope), self._plane.gate.proxies
        peer = proxies.behind(near, proxies.forwarded(scope["headers"]))
        if peer is not near:
            scope["state"]["peer"] = peer
        return peer

    def _enter(self, route: InferenceRoute, priority: Priority, principal: Principal, peer: Peer) -> None:
        refused = self._plane.gate.enter(priority, principal, peer)
        if refused is not None:
            self._plane.refused(route.transport, refused)
            raise refused

    async def _rest_of_body(self, message: Message, receive: Receive, declared: int) -> bytes:
        """The whole body, of which ``message`` is the first part, within the size limit. The connection itself sees to
        the time limit (``keelway.edge.protocol``)."""
        parts: list[bytes] = []
        size = 0
        while message["type"] == "http.request":
            body = message.get("body", b"")
            size += len(body)
            if max(size, declared) <= self._max_body_bytes:
                parts.append(body)
            elif max(size, declared) > _DISCARD_LIMIT:
                raise self._too_large(_CLOSE)
            if not message.get("more_body"):
                break
            message = await receive()
        else:
            raise Cancelled("the caller left before the body was whole")
        if size > self._max_body_bytes:
            raise self._too_large()
        return b"".join(parts)

    def _too_large(self, headers: tuple[tuple[bytes, bytes], ...] = ()) -> HttpRefusal:
        # A body is read to its end and forgotten, within reason, so that a caller that is still sending hears why
        # instead of seeing its connection break.
        return HttpRefusal(413, f"the body is larger than {self._max_body_bytes} bytes", headers)


def peer_of(scope: Scope) -> Peer:
    """Who is at the other end of the connection; it has told the scope (``keelway.edge.protocol``)."""
    peer: Peer = scope.get("state", {}).get("peer", NOBODY)
    return peer


def only_model(snapshot: ServingSnapshot) -> str:
    """The name of the one model that is served. ``NotFound`` if there are more or none."""
    only = snapshot.only
    if only is None:
        raise NotFound("this short route answers where exactly one model is served; name the model in the path")
    return only.name


def reply_headers(answer: Answer, route: InferenceRoute, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of a reply that carries ``answer``, without those of the connection."""
    encoded = answer.encoded
    headers = [
        (b"content-type", encoded.content_type),
        (b"content-length", b"%d" % len(encoded.body)),
        (b"x-request-id", request_id.encode()),
    ]
    if not route.names_version:
        version = answer.version
        headers.append((b"keelway-model-version", version.version.encode()))
        headers.append((b"keelway-model-digest", version.model_digest.encode()))
    if answer.cache_status:
        headers.append((b"cache-status", answer.cache_status))
    if answer.rate_limit:
        headers.append((b"ratelimit", answer.rate_limit))
    if encoded.json_length is not None:
        headers.append((b"inference-header-content-length", b"%d" % encoded.json_length))
    return headers


async def _while_connected(answer: Waiting[Answer], receive: Receive) -> Answer:
    """``answer``, unless the caller leaves first: then its work is cancelled, and skipped if it has not begun."""
    work = answer.future()
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Cancelled("the caller has left")
        return work.result()
    finally:
        gone.cancel()
        work.cancel()


def check_media(headers: Mapping[bytes, bytes]) -> None:
    """Only JSON and raw tensors are understood, uncompressed. ``HttpRefusal`` 415 otherwise.

    A page of another site can make a browser send other types without asking first, which is why they are refused and
    not guessed at. Without a type the body is taken as what the route expects.
    """
    media_type = headers.get(b"content-type", b"")
    if media_type != JSON and media_type and not media_type.lower().startswith(_MEDIA_TYPES):
        raise HttpRefusal(415, "the content type must be application/json or application/octet-stream")
    encoding = headers.get(b"content-encoding")
    if encoding and encoding.lower() != b"identity":
        raise HttpRefusal(415, "compressed bodies are not supported; send the body as it is")


def content_length(headers: Mapping[bytes, bytes]) -> int:
    """The declared size of the body, 0 if it is not declared. The HTTP parser has checked that it is a number."""
    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() else 0


def header_length_of(headers: Mapping[bytes, bytes]) -> int | None:
    """``Inference-Header-Content-Length``; ``InvalidInput`` if it is not a number."""
    text = headers.get(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 12:
        raise InvalidInput("Inference-Header-Content-Length is not a whole number")
    return int(text)


def priority_of(headers: Mapping[bytes, bytes]) -> Priority:
    """``X-Request-Priority``: ``interactive``, which is the default, or ``batch``. ``InvalidInput`` otherwise."""
    text = headers.get(b"x-request-priority")
    if text is None:
        return Priority.INTERACTIVE
    priority = _PRIORITIES.get(text.lower())
    if priority is None:
        raise InvalidInput("X-Request-Priority must be interactive or batch")
    return priority


def timeout_of(headers: Mapping[bytes, bytes], limit: float) -> float:
    """Seconds from ``X-Request-Timeout`` (``0.25``, ``0.25s`` or ``250ms``), at most ``limit``."""
    text = headers.get(b"x-request-timeout")
    if text is None:
        return limit
    number, scale = (text[:-2], 0.001) if text.endswith(b"ms") else (text.removesuffix(b"s"), 1.0)
    try:
        seconds = float(number) * scale
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidInput("X-Request-Timeout must be a positive number of seconds, such as 0.25 or 250ms")
    return min(seconds, limit)
