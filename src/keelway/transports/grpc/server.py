"""The gRPC server: grpc.aio on the event loop of the rest, one table from path to call, start and graceful stop.

Nothing here knows what a call does; ``inference.py``, ``repository.py``, ``health.py`` and ``reflection.py`` do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

from keelway.config import GrpcSettings, Settings
from keelway.dataplane import DataPlane
from keelway.edge.listening import Endpoint, join_address
from keelway.errors import FailedPrecondition
from keelway.hosting.fleet import Fleet
from keelway.observe.request_ids import RequestIds
from keelway.transports.grpc.calls import guarded, guarded_stream, parsed
from keelway.transports.grpc.health import WATCH, Health
from keelway.transports.grpc.inference import inference_calls
from keelway.transports.grpc.reflection import PATHS, Reflection
from keelway.transports.grpc.repository import Repository
from keelway.wire.health_pb2 import HealthCheckRequest, HealthCheckResponse
from keelway.wire.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

log = logging.getLogger("keelway.grpc")

SERVICES = (
    "inference.GRPCInferenceService",
    "keelway.v1.ModelService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
)

#: Milliseconds after which a peer that says nothing is asked whether it is there, and that it may take to say so.
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000

#: How the name of the library's coroutine ends that takes new calls.
_TAKES_CALLS = "._server_main_loop"

#: Seconds between two attempts to listen again on an address that is not free yet.
_RENEWAL = 0.05

#: Calls at once on one connection. A client keeps back what is beyond, so it is more than there are permits by default:
#: a caller should hear that the server is busy, not wait without knowing.
_CONCURRENT_STREAMS = 4096


class GrpcServer:
    """``ready`` says whether the server is, drains included. Start and stop it on the loop that it is made on.
    ``shared``: other processes listen on the same address, and the system spreads the connections."""

    def __init__(
        self,
        settings: Settings,
        plane: DataPlane,
        fleet: Fleet,
        ids: RequestIds,
        ready: Callable[[], bool],
        *,
        shared: bool = False,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._closing = asyncio.Event()
        self._health = Health(SERVICES, ready)
        self._reflection = Reflection(SERVICES)
        repository = Repository(plane, fleet, ready, allow_model_control=settings.serving.allow_model_control)
        answers = {**inference_calls(plane, settings.limits), **repository.calls(), **self._health.calls()}
        methods = {path: grpc.unary_unary_rpc_method_handler(guarded(answer, ids)) for path, answer in answers.items()}
        methods[WATCH] = grpc.unary_stream_rpc_method_handler(guarded_stream(self._watch, ids))
        for path in PATHS:
            methods[path] = grpc.stream_stream_rpc_method_handler(guarded_stream(self._reflect, ids))
        self._methods = _Methods(methods)
        self._server = self._made()
        self._renewing: asyncio.Task[None] | None = None
        #: Paths of all methods, with their leading slash.
        self.methods = frozenset(methods)

    def _made(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=_options(self._settings, self._shared))
        server.add_generic_rpc_handlers((self._methods,))
        return server

    async def start(self, endpoint: Endpoint) -> str:
        """Listen, and say where: host and port. ``FailedPrecondition`` if the address is taken."""
        try:
            port = self._listen(endpoint.text)
        except RuntimeError:
            raise endpoint.taken("it is in use or not of this machine") from None
        serving = await self._begin()
        address = join_address(endpoint.host, port)
        self._renewing = asyncio.create_task(self._renew(address, serving))
        return address

    async def _begin(self) -> asyncio.Task[Any] | None:
        """Start, and find the library's task that takes new calls, which it does not hand out."""
        before = asyncio.all_tasks()
        await self._server.start()
        new = asyncio.all_tasks() - before
        return next((task for task in new if getattr(task.get_coro(), "__qualname__", "").endswith(_TAKES_CALLS)), None)

    def _listen(self, address: str) -> int:
        credentials = _credentials(self._settings.grpc)
        if credentials is None:
            return self._server.add_insecure_port(address)  # type: ignore[no-any-return]
        return self._server.add_secure_port(address, credentials)  # type: ignore[no-any-return]

    async def _renew(self, address: str, serving: asyncio.Task[Any] | None) -> None:
        """Start again on ``address`` whenever the library takes no more calls of its own accord. It does so at a path
        that is no UTF-8: one frame of a stranger would end gRPC for everybody, and for good."""
        while serving is not None:
            await asyncio.wait((serving,))
            if self._closing.is_set():
                return
            log.error("gRPC has ended by itself and is started again")
            with contextlib.suppress(Exception):  # what has ended it, once more
                await self._server.stop(0)
            serving = await self._begin_again(address)

    async def _begin_again(self, address: str) -> asyncio.Task[Any] | None:
        while not self._closing.is_set():
            self._server = self._made()
            try:
                self._listen(address)
            except RuntimeError:  # the old one has not let go of it yet
                await asyncio.sleep(_RENEWAL)
            else:
                return await self._begin()
        return None

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those under way ``grace`` seconds to finish. Called again, with less."""
        self._closing.set()
        await self._server.stop(grace)

    def _watch(self, body: bytes) -> AsyncIterator[HealthCheckResponse]:
        return self._health.watch(parsed(HealthCheckRequest, body), self._closing)

    async def _reflect(self, bodies: AsyncIterator[bytes]) -> AsyncIterator[ServerReflectionResponse]:
        async for body in _until(self._closing, bodies):
            yield self._reflection.answer(parsed(ServerReflectionRequest, body))


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, methods: Mapping[str, grpc.RpcMethodHandler]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(handler_call_details.method)


async def _until(closing: asyncio.Event, bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """``bodies``, ended when the server closes: an idle stream must not hold up a drain."""
    closed = asyncio.ensure_future(closing.wait())
    try:
        while True:
            body = asyncio.ensure_future(anext(bodies, None))
            await asyncio.wait((body, closed), return_when=asyncio.FIRST_COMPLETED)
            if not body.done():
                body.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await body
                return
            message = body.result()
            if message is None:
                return
            yield message
    finally:
        closed.cancel()


def _options(settings: Settings, shared: bool) -> list[tuple[str, Any]]:
    return [
        # Two servers on one port would each get half of the calls; that is an error, but for workers of one server.
        ("grpc.so_reuseport", int(shared)),
        ("grpc.max_receive_message_length", settings.http.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.http.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.http.max_header_bytes),
        ("grpc.max_concurrent_streams", _CONCURRENT_STREAMS),
        ("grpc.max_connection_idle_ms", int(settings.http.keep_alive_timeout * 1000)),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ]


def _credentials(settings: GrpcSettings) -> grpc.ServerCredentials | None:
    """TLS as configured; with a list of authorities for clients, only clients with a certificate of theirs come in."""
    if not settings.tls_certificate and not settings.tls_private_key:
        if settings.tls_client_ca:
            raise FailedPrecondition(
                "grpc.tls_client_ca needs a certificate of the server's own", hint="set grpc.tls_certificate too"
            )
        return None
    key = _file(settings.tls_private_key, "grpc.tls_private_key")
    certificate = _file(settings.tls_certificate, "grpc.tls_certificate")
    authorities = _file(settings.tls_client_ca, "grpc.tls_client_ca") if settings.tls_client_ca else None
    return grpc.ssl_server_credentials([(key, certificate)], authorities, require_client_auth=authorities is not None)


def _file(path: str, setting: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"the file of {setting} cannot be read: {error.strerror}", field=setting) from None
