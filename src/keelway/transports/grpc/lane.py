"""Who answers the requests of HTTP/2: one table from path to call, and what is no call of gRPC is told so.

A head is judged once, and the verdict serves all calls that have it. What a call does stands in ``inference.py``,
``repository.py``, ``health.py`` and ``reflection.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

from keelway.config import Settings
from keelway.dataplane import DataPlane
from keelway.edge.http2.application import Opening, Response
from keelway.edge.http2.header_blocks import written
from keelway.edge.http2.request_head import RequestHead
from keelway.errors import KeelwayError
from keelway.guard.auth import Authenticator, OpenToAll
from keelway.guard.scopes import Done
from keelway.hosting.fleet import Fleet
from keelway.observe.request_ids import RequestIds
from keelway.ports import Codec
from keelway.transports.grpc.admission import CountedOpening, Entered, Foyer, GuardedOpening
from keelway.transports.grpc.calls import (
    Answer,
    Crowd,
    RefusedOpening,
    StreamExchange,
    Streaming,
    StreamOpening,
    UnaryOpening,
    parsed,
)
from keelway.transports.grpc.errors import CallRefused, Status, refusal
from keelway.transports.grpc.framing import Framing
from keelway.transports.grpc.health import CHECK, WATCH, Health
from keelway.transports.grpc.inference import InferenceOpening, inference_methods
from keelway.transports.grpc.metadata import CallHead, call_head, is_grpc
from keelway.transports.grpc.reflection import PATHS, Reflection
from keelway.transports.grpc.repository import Repository, nobody_is_told
from keelway.wire.health_pb2 import HealthCheckRequest, HealthCheckResponse
from keelway.wire.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

SERVICES = (
    "inference.GRPCInferenceService",
    "keelway.v1.ModelService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
)

#: From what the head of a call says to what it opens.
Method = Callable[[CallHead], Entered]
#: Probes ask these, and have no credentials.
OPEN_METHODS = frozenset(
    {CHECK, WATCH, "/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"}
)
#: Largest message of a call that is no inference, in bytes: a few names and options at most; and of one that anybody
#: may make.
_LARGEST, _LARGEST_OPEN = 64 * 1024, 4096
#: Watches at once, and of those from one address.
_WATCHES: Final = (4096, 1024)


class GrpcLane:
    """``ready`` says whether the server is, drains included."""

    def __init__(
        self,
        settings: Settings,
        plane: DataPlane,
        fleet: Fleet,
        ids: RequestIds,
        ready: Callable[[], bool],
        authenticator: Authenticator,
        audit: Done = nobody_is_told,
    ) -> None:
        self._settings = settings
        self._plane = plane
        self._ids = ids
        self._closing = asyncio.Event()
        self._streams: set[StreamExchange] = set()
        self._foyer = Foyer()
        self._health = Health(SERVICES, ready)
        self._reflection = Reflection(SERVICES)
        control = settings.serving.allow_model_control
        repository = Repository(plane, fleet, ready, allow_model_control=control, audit=audit)
        methods: dict[str, Method] = {}
        for path, (codec, transport) in inference_methods(settings.limits).items():
            methods[path] = self._inference(codec, transport)
        for path, answer in {**repository.calls(), **self._health.calls()}.items():
            methods[path] = self._unary(answer, _LARGEST_OPEN if path in OPEN_METHODS else _LARGEST)
        methods[WATCH] = self._streaming(self._watch, _LARGEST_OPEN, one=True, crowd=Crowd(*_WATCHES))
        for path in PATHS:
            methods[path] = self._streaming(self._reflect, _LARGEST)
        for path in methods.keys() - OPEN_METHODS - inference_methods(settings.limits).keys():
            methods[path] = self._counted(methods[path])
        #: Paths of all methods, with their leading slash.
        self.methods = frozenset(methods)
        self._by_path = {
            path.encode(): (method, OpenToAll() if path in OPEN_METHODS else authenticator)
            for path, method in methods.items()
        }

    def close(self) -> None:
        """End the streams that would go on for ever."""
        self._closing.set()
        for exchange in self._streams:
            exchange.close()

    def judge(self, head: RequestHead) -> Opening:
        """See ``keelway.edge.http2.application.Application``."""
        if head.method != b"POST":
            return _no_call(b"405")
        if not is_grpc(head.fields):
            return _no_call(b"415")
        largest = self._settings.http.max_header_bytes
        if head.size > largest:
            return self._refused(
                CallRefused(Status.RESOURCE_EXHAUSTED, f"the metadata are larger than {largest} bytes")
            )
        found = self._by_path.get(head.path)
        if found is None:
            return self._refused(CallRefused(Status.UNIMPLEMENTED, "there is no such method"))
        try:
            method, authenticator = found
            proxies, opened = self._plane.gate.proxies, method(call_head(head.fields))
            return GuardedOpening(
                authenticator,
                authenticator.present(head.fields),
                proxies,
                proxies.forwarded(head.fields),
                self._foyer,
                self._settings.limits.request_timeout,
                opened,
            )
        except (CallRefused, KeelwayError) as error:
            return self._refused(error)

    def _refused(self, error: CallRefused | KeelwayError) -> Opening:
        return RefusedOpening(lambda: refusal(error, self._ids.next()))

    # Kinds of methods

    def _framing(self, head: CallHead, largest: float = math.inf) -> Framing:
        return Framing(int(min(largest, self._settings.http.max_body_bytes)), head.encoding)

    def _inference(self, codec: Codec, transport: str) -> Method:
        limit, patience = self._settings.limits.request_timeout, self._settings.http.body_timeout

        def opening(head: CallHead) -> Entered:
            seconds = min(limit, head.seconds)
            return InferenceOpening(
                self._plane,
                self._ids,
                codec,
                transport,
                head,
                self._framing(head),
                seconds,
                patience,
            )

        return opening

    def _counted(self, method: Method) -> Method:
        return lambda head: CountedOpening(self._plane.gate, method(head))

    def _unary(self, answer: Answer, largest: int) -> Method:
        patience = self._settings.http.body_timeout
        return lambda head: UnaryOpening(answer, self._framing(head, largest), self._ids, head.seconds, patience)

    def _streaming(
        self, streaming: Streaming, largest: int, *, one: bool = False, crowd: Crowd | None = None
    ) -> Method:
        patience, live = self._settings.http.body_timeout, self._streams

        def opening(head: CallHead) -> Entered:
            framing = self._framing(head, largest)
            return StreamOpening(streaming, framing, self._ids, head.seconds, patience, live, one=one, crowd=crowd)

        return opening

    # Streams

    async def _watch(self, bodies: AsyncIterator[bytes]) -> AsyncGenerator[HealthCheckResponse, None]:
        async for body in bodies:
            watched = self._health.watch(parsed(HealthCheckRequest, body), self._closing)
            async with contextlib.aclosing(watched) as statuses:
                async for status in statuses:
                    yield status
            return
        raise CallRefused(Status.INVALID_ARGUMENT, "the call has no message")

    async def _reflect(self, bodies: AsyncIterator[bytes]) -> AsyncGenerator[ServerReflectionResponse, None]:
        async for body in bodies:
            yield self._reflection.answer(parsed(ServerReflectionRequest, body))


def _no_call(status: bytes) -> Opening:
    """What is no call of gRPC gets a status of HTTP."""
    response = Response(written([(b":status", status), (b"content-length", b"0")]), b"", b"")
    return RefusedOpening(lambda: response)
