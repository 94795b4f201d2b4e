"""The only module that builds concrete objects, and the only one that knows the order of start and drain.

Start: sockets → models loaded and warmed → listening. Drain: readiness falls → wait for the load balancer → stop
accepting → requests under way finish → models close → records are flushed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from inspect import isawaitable
from pathlib import Path

import uvicorn

from keelway.clock import Clock, SystemClock
from keelway.codecs.rows import RowCodec
from keelway.config import HttpSettings, Settings
from keelway.contract.names import fold
from keelway.dataplane import Answer, DataPlane, InferenceCall
from keelway.edge.protocol import protocol_factory, sweep_forever
from keelway.errors import FailedPrecondition, InvalidInput
from keelway.guard.admission import Admission
from keelway.hosting.fleet import Fleet
from keelway.hosting.loading import load_version
from keelway.hosting.sources import ModelSource
from keelway.observe.metrics import ServingMetrics
from keelway.observe.records import JsonLinesSink, NullSink, RecordRing
from keelway.ports import RecordSink
from keelway.routing.snapshot import ServedModel, ServedVersion, ServingSnapshot
from keelway.transports.rest.door import Door
from keelway.transports.rest.hosts import OriginPolicy
from keelway.transports.rest.service import Service
from keelway.types import InferenceRecord

log = logging.getLogger("keelway.app")


class App:
    """One server process. ``run`` returns after a clean drain."""

    def __init__(self, settings: Settings, source: ModelSource, clock: Clock | None = None) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._admission = Admission(settings.limits.max_in_flight)
        self._metrics = ServingMetrics(in_flight=lambda: self._admission.in_flight)
        self._records = RecordRing(settings.records.ring_size)
        self._sink: RecordSink = JsonLinesSink(Path(settings.records.file)) if settings.records.file else NullSink()
        self._plane = DataPlane(self._admission, self._metrics, self._records, self._clock)
        self._fleet = Fleet(source, settings.runtime, settings.limits, self._publish, self._metrics, self._clock)
        self._draining = False
        self._patience_ends = math.inf
        self._forced = asyncio.Event()
        self._abandoned = False
        self._server: uvicorn.Server | None = None

    def run(self, on_listening: Callable[[str], None] = lambda url: None) -> None:
        """Serve until SIGTERM or SIGINT. ``on_listening`` is told the address once the server is ready.

        Raises ``KeelwayError`` when the server cannot start: the address is taken or not allowed, a model does not
        load."""
        import uvloop

        async def serve() -> None:
            await self.serve(on_listening)
            if self._abandoned:
                # A thread inside a model cannot be stopped, and the interpreter would wait for it.
                logging.shutdown()
                os._exit(1)

        uvloop.run(serve())

    async def serve(self, on_listening: Callable[[str], None] = lambda url: None) -> None:
        """As ``run``, on the running loop."""
        listener = bind(self.settings.http)
        url = address_of(listener)
        server = self._server = _Server(self._uvicorn_config())
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        background = [
            asyncio.create_task(self._flush_forever()),
            asyncio.create_task(sweep_forever(server.server_state.connections, self._clock)),
        ]
        with self._signals():
            try:
                # Listening before loading: probes get an answer, and it is "not ready" until the models are warm.
                if await self._loaded_before(serving):
                    # What stands now stays: looking through it again and again would only delay requests.
                    gc.collect()
                    gc.freeze()
                    background.append(asyncio.create_task(self._fleet.follow(self.settings.registry.poll_interval)))
                    on_listening(url)
                await serving
            finally:
                server.should_exit = True
                for task in background:
                    task.cancel()
                await asyncio.gather(serving, *background, return_exceptions=True)
                listener.close()
                await self._close_models()
                await self._flush()
                self._sink.close()

    async def _close_models(self) -> None:
        """Wait for the last runs, but no longer than a drain may take, and not at all once told to stop again."""
        closing = asyncio.create_task(self._fleet.close())
        forced = asyncio.create_task(self._forced.wait())
        left = self._patience_ends - self._clock.monotonic()
        limit = max(1.0, min(left, self.settings.serving.drain_timeout))
        await asyncio.wait((closing, forced), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        # Told to stop at once: what is idle closes in no time, and only what is running is abandoned.
        await asyncio.wait((closing,), timeout=0.2)
        self._abandoned = not closing.done()
        if self._abandoned:
            log.error("stopping although a model is still running")

    async def _loaded_before(self, serving: asyncio.Task[None]) -> bool:
        """Load the models; false if the server was told to stop meanwhile. Raises why a model did not load."""
        loading = asyncio.create_task(self._fleet.start())
        await asyncio.wait((loading, serving), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
            return False
        loading.result()
        return True

    async def drain(self, delay: float) -> None:
        """Stop in order: readiness falls, ``delay`` seconds pass while requests are still answered (with
        ``Connection: close``), then the listener closes and what is under way finishes."""
        if self._draining:
            return
        self._draining = True
        self._patience_ends = self._clock.monotonic() + delay + self.settings.serving.drain_timeout
        log.info("draining")
        await asyncio.sleep(delay)
        if self._server is not None:
            self._server.should_exit = True

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        drains: set[asyncio.Task[None]] = set()

        def stop(delay: float) -> None:
            if self._draining and self._server is not None:
                self._server.should_exit = self._server.force_exit = True
                self._forced.set()
            drains.add(loop.create_task(self.drain(delay)))

        try:
            loop.add_signal_handler(signal.SIGTERM, stop, self.settings.serving.drain_delay)
            loop.add_signal_handler(signal.SIGINT, stop, 0.0)
        except (ValueError, RuntimeError):
            # Not the main thread: whoever runs us there stops us by calling ``drain``.
            yield
            return
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_signal_handler(signal.SIGINT)

    def _uvicorn_config(self) -> uvicorn.Config:
        settings = self.settings
        service = Service(
            self._plane,
            self._fleet,
            self._metrics,
            allow_model_control=settings.serving.allow_model_control,
            draining=lambda: self._draining,
        )
        host, _ = split_address(settings.http.address)
        origins = OriginPolicy(host, settings.http.allowed_hosts, settings.http.allowed_origins)
        door = Door(self._plane, settings.http, settings.limits, origins, service.application, lambda: self._draining)
        return uvicorn.Config(
            door,
            http=protocol_factory(settings.http, self._clock),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            # Uvicorn's types ask for whole seconds; asyncio, which gets them, takes fractions.
            timeout_keep_alive=settings.http.keep_alive_timeout,  # type: ignore[arg-type]
            timeout_graceful_shutdown=settings.serving.drain_timeout,  # type: ignore[arg-type]
        )

    def _publish(self, snapshot: ServingSnapshot) -> None:
        self._plane.snapshot = snapshot

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.records.flush_interval)
            await self._flush()

    async def _flush(self) -> None:
        """Hand the records to the sink, off the loop. Cancelled, it ends when what it has taken is written."""
        records = self._records.take()
        dropped, self._records.dropped = self._records.dropped, 0
        self._metrics.counter("ml_records_dropped_total").inc(dropped)
        if not records:
            return
        writing = asyncio.create_task(self._write(records))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await writing
            raise

    async def _write(self, records: Sequence[InferenceRecord]) -> None:
        """A sink that fails loses what it was given, and says so."""
        try:
            await asyncio.to_thread(self._sink.write, records)
            self._metrics.counter("ml_records_written_total").inc(len(records))
        except OSError as error:
            self._metrics.counter("ml_records_dropped_total").inc(len(records))
            log.error("records could not be written: %s", error.strerror)


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the app drains in its own order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(settings: HttpSettings) -> socket.socket:
    """A listening socket for ``settings.address``. ``InvalidInput`` if that is no address, ``FailedPrecondition`` if
    it is taken, or beyond loopback without ``insecure``."""
    host, port = split_address(settings.address)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise InvalidInput("the host of http.address cannot be resolved", field="http.address") from None
    if not ipaddress.ip_address(address[0]).is_loopback and not settings.insecure:
        raise FailedPrecondition(
            "refusing to listen beyond loopback without credentials",
            hint="listen on 127.0.0.1 behind a gateway, or say --insecure if the network is trusted",
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise FailedPrecondition(
            f"cannot listen on {settings.address}: {error.strerror}", hint="choose another port with --http HOST:PORT"
        ) from None
    return listener


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``. ``InvalidInput`` if there is no port."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidInput("http.address must be HOST:PORT, such as 127.0.0.1:8080", field="http.address")
    return host.strip("[]"), int(port)


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def offline(settings: Settings, source: ModelSource) -> Iterator[tuple[ServedVersion, Callable[[bytes], bytes]]]:
    """The request line without a network: the default version of the first model of ``source``, and a function from a
    body in the people's format to the answer. For ``keelway predict``. Raises what the line raises."""
    clock = SystemClock()
    metrics = ServingMetrics()
    plane = DataPlane(Admission(1), metrics, RecordRing(1), clock)
    wanted = source.wanted()[0]
    release = next(item for item in wanted.releases if item.version == wanted.default)
    loaded = load_version(source, release, settings.runtime, settings.limits, clock)
    plane.snapshot = ServingSnapshot(
        {fold(wanted.name): ServedModel(wanted.name, {release.version: loaded.served}, release.version)}
    )
    codec = RowCodec(settings.limits.max_nesting)

    def answer(body: bytes) -> bytes:
        deadline = clock.monotonic() + settings.limits.request_timeout
        call = InferenceCall(wanted.name, None, codec, body, "offline", "offline", deadline)
        return asyncio.run(_answered(plane, call)).encoded.body

    try:
        yield loaded.served, answer
    finally:
        loaded.close()


async def _answered(plane: DataPlane, call: InferenceCall) -> Answer:
    answer = plane.infer(call)
    return await answer if isawaitable(answer) else answer
