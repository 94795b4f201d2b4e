"""The only module that builds concrete objects, and the only one that knows the order of start and drain.

Start: sockets → models loaded and warmed → listening. Drain: readiness falls → wait for the load balancer → stop
accepting → requests under way finish → models close → records are flushed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from keelway.clock import Clock, SystemClock
from keelway.codecs.rows import RowCodec
from keelway.config import Settings
from keelway.contract.names import fold
from keelway.dataplane import Answer, DataPlane, InferenceCall
from keelway.edge.accepting import Berth, Place
from keelway.edge.listening import Addresses, address_of, bind, resolve, split_address
from keelway.edge.preface import port_factory
from keelway.edge.protocol import sweep_forever
from keelway.edge.server import EdgeServer, server_config
from keelway.edge.tls import Certificates, certificates
from keelway.edge.uvicorn_parts import Config
from keelway.guard.admission import Admission
from keelway.guard.gate import Gate
from keelway.hosting.caching import answer_cache
from keelway.hosting.callers import Callers
from keelway.hosting.fleet import Fleet
from keelway.hosting.limiting import gate
from keelway.hosting.loading import load_version
from keelway.hosting.sources import ModelSource
from keelway.observe.metrics import ServingMetrics
from keelway.observe.records import JsonLinesSink, NullSink, RecordRing
from keelway.observe.request_ids import RequestIds
from keelway.ports import KeySource, RecordSink
from keelway.routing.snapshot import ServedModel, ServedVersion, ServingSnapshot
from keelway.transports.grpc.lane import GrpcLane
from keelway.transports.grpc.server import GrpcServer
from keelway.transports.rest.access import open_paths
from keelway.transports.rest.door import Door
from keelway.transports.rest.hosts import OriginPolicy
from keelway.transports.rest.lane import InferenceLane
from keelway.transports.rest.paths import InferencePaths
from keelway.transports.rest.service import Scrape, Service

log = logging.getLogger("keelway.app")

#: Objects that may be made and not freed before the collector looks. A request leaves hardly a cycle behind; what sets
#: it off at its own, much lower number is a crowd of new connections, and then it stops all of them to find nothing.
_COLLECT_AFTER = 20_000


class App:
    """One server process. ``run`` returns after a clean drain."""

    def __init__(
        self,
        settings: Settings,
        source: ModelSource,
        clock: Clock | None = None,
        berth: Berth | None = None,
        scrape: Scrape | None = None,
        keys: KeySource | None = None,
    ) -> None:
        """``berth`` and ``scrape`` are of one of several workers: where it serves, and the metrics of them all.
        ``keys`` are followed where callers prove themselves by API keys; a worker is told.

        Raises ``KeelwayError`` if the settings of authentication do not fit together."""
        self.settings = settings
        self._berth = berth
        self._scrape = scrape
        self._clock = clock or SystemClock()
        self._admission = Admission(settings.limits.max_in_flight, adaptive=settings.limits.adaptive_concurrency)
        self._metrics = ServingMetrics(lambda: self._admission.in_flight, lambda: self._admission.limit)
        self._records = RecordRing(settings.records.ring_size)
        self._sink: RecordSink = JsonLinesSink(Path(settings.records.file)) if settings.records.file else NullSink()
        self._cache = answer_cache(settings, self._metrics, self._clock)
        self._gate = gate(settings, self._admission, self._metrics, self._clock)
        self._plane = DataPlane(self._gate, self._metrics, self._records, self._clock, self._cache)
        self._fleet = Fleet(source, settings, self._publish, self._metrics, self._clock)
        self._ids = RequestIds()
        self._callers = Callers(settings, self._clock, self._metrics, keys, self._fleet.renew_keys)
        self._plane.denied = self._callers.denied
        self._open_paths = open_paths(settings.auth.public)
        self._grpc_lane: GrpcLane | None = None
        self._grpc: GrpcServer | None = None
        self._tls: Certificates | None = None
        self._draining = False
        self._retiring = False
        self._patience_ends = math.inf
        self._forced = asyncio.Event()
        self._forcing: asyncio.Task[None] | None = None
        self._abandoned = False
        self._server: EdgeServer | None = None

    @property
    def fleet(self) -> Fleet:
        """What is loaded."""
        return self._fleet

    @property
    def metrics(self) -> ServingMetrics:
        """What this process has counted."""
        return self._metrics

    @property
    def abandoned(self) -> bool:
        """Whether it has stopped although a model was still running."""
        return self._abandoned

    def run(self, on_listening: Callable[[Addresses], None] = lambda addresses: None) -> None:
        """Serve until SIGTERM or SIGINT. ``on_listening`` is told the addresses once the server is ready.

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

    async def serve(self, on_listening: Callable[[Addresses], None] = lambda addresses: None) -> None:
        """As ``run``, on the running loop."""
        settings, berth = self.settings, self._berth
        listener = (
            berth.http.listener if berth else bind(resolve(settings.http.address, "http.address", settings.anywhere))
        )
        try:
            self._tls = certificates(settings.tls, self._metrics.certificate_expires)
            await self._callers.start()
            grpc_address = self._start_grpc() if berth is None or berth.early else ""
        except BaseException:
            listener.close()
            raise
        server = self._server = self._edge_server(listener)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        background = [
            asyncio.create_task(self._flush_forever()),
            asyncio.create_task(sweep_forever(server.server_state.connections, self._clock)),
            *map(asyncio.create_task, self._callers.work()),
        ]
        if self._tls is not None:
            background.append(asyncio.create_task(self._tls.follow()))
        with self._signals():
            try:
                # Listening before loading: probes get an answer, and it is "not ready" until the models are warm.
                if await self._loaded_before(serving):
                    # What stands now stays: looking through it again and again would only delay requests.
                    gc.collect()
                    gc.freeze()
                    gc.set_threshold(_COLLECT_AFTER, 10, 10)
                    if berth is None:  # a worker is told
                        background.append(asyncio.create_task(self._fleet.follow(self.settings.registry.poll_interval)))
                    on_listening(Addresses.of(self.settings, address_of(listener), grpc_address))
                await serving
            finally:
                server.should_exit = True
                for task in background:
                    task.cancel()
                await asyncio.gather(serving, self._stop_grpc(), *background, return_exceptions=True)
                listener.close()
                await self._close_models()
                if self._cache is not None:
                    await self._cache.close()
                await self._gate.close()
                await self._flush()
                self._sink.close()
                await self._callers.close()

    def take_used(self) -> Mapping[str, float]:
        """Which API keys were used since this was last asked, by their ids, and when."""
        return self._callers.take_used()

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
        await self._stop_grpc()

    async def join(self) -> None:
        """Take part in serving: the other workers are ready too. Raises ``KeelwayError`` if gRPC cannot be served."""
        if self._berth is not None and self._server is not None:
            self._berth.opened.set()
            if self._grpc is None:
                self._start_grpc()
            self._server.take_connections()

    async def retire(self, linger: float) -> None:
        """Leave while other workers go on: take no more connections, close those that there are behind their next
        answer, and those without a request after ``linger`` seconds. Readiness stays: it is asked of the others."""
        server = self._server
        if self._draining or self._retiring or server is None:
            return
        self._retiring = True
        self._patience_ends = self._clock.monotonic() + linger + self.settings.serving.drain_timeout
        log.info("making room for another worker")
        server.stop_taking_connections()
        leaving = asyncio.create_task(self._stop_grpc())
        end = self._clock.monotonic() + linger
        # Uvicorn's set tells nobody when it is empty.
        while not server.is_empty() and self._clock.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        server.should_exit = True
        await leaving

    def force(self) -> None:
        """Stop without waiting for requests under way."""
        if self._server is not None:
            self._server.should_exit = self._server.force_exit = True
        self._forced.set()
        if self._grpc is not None:
            self._forcing = asyncio.get_running_loop().create_task(self._grpc.stop(0.0))

    def _start_grpc(self) -> str:
        """Serve gRPC on a port of its own where the settings say so; the address, empty without one."""
        settings, berth = self.settings, self._berth
        if not settings.grpc.address:
            return ""
        endpoint = resolve(settings.grpc.address, "grpc.address", settings.anywhere)
        place = berth.grpc if berth is not None else None
        place = place or Place.alone(bind(endpoint))
        context = self._tls.grpc if self._tls is not None else None
        self._grpc = GrpcServer(settings.http, self._calls(), self._clock, place, context)
        return self._grpc.address

    def _edge_server(self, listener: socket.socket) -> EdgeServer:
        """The server of the HTTP port. Uvicorn takes the connections itself where there is nothing else to it."""
        berth, tls = self._berth, self._tls
        place = berth.http if berth is not None else Place.alone(listener) if tls is not None else None
        return EdgeServer(
            self._uvicorn_config(),
            self.settings.http,
            place,
            early=berth is None or berth.early,
            context=tls.http if tls is not None else None,
        )

    def _calls(self) -> GrpcLane:
        """Who answers the calls of all ports. Made on the running loop."""
        if self._grpc_lane is None:
            self._grpc_lane = GrpcLane(
                self.settings,
                self._plane,
                self._fleet,
                self._ids,
                self._is_ready,
                self._callers.authenticator,
                self._callers.note_done,
            )
        return self._grpc_lane

    async def _stop_grpc(self) -> None:
        """Calls under way may finish for as long as a drain may take; without a drain there are none to wait for."""
        if self._grpc_lane is not None:
            self._grpc_lane.close()
        if self._grpc is not None:
            left = self._patience_ends - self._clock.monotonic() if self._leaving else 0.0
            await self._grpc.stop(max(0.0, left))

    @property
    def _leaving(self) -> bool:
        """Whether connections should not be used any more."""
        return self._draining or self._retiring

    def _is_ready(self) -> bool:
        return self._fleet.ready and not self._draining and (self._berth is None or self._berth.opened.is_set())

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        drains: set[asyncio.Task[None]] = set()

        def stop(delay: float) -> None:
            if self._draining:
                self.force()
            drains.add(loop.create_task(self.drain(delay)))

        try:
            loop.add_signal_handler(signal.SIGTERM, stop, self.settings.serving.drain_delay)
            # Ctrl-C reaches every process of a terminal; those of a supervisor are told by it.
            loop.add_signal_handler(signal.SIGINT, stop if self._berth is None else lambda _: None, 0.0)
        except (ValueError, RuntimeError):
            # Not the main thread: whoever runs us there stops us by calling ``drain``.
            yield
            return
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_signal_handler(signal.SIGINT)

    def _uvicorn_config(self) -> Config:
        settings = self.settings
        service = Service(
            self._plane,
            self._fleet,
            self._metrics,
            allow_model_control=settings.serving.allow_model_control,
            ready=self._is_ready,
            scrape=self._scrape,
            methods=self._callers.methods,
            audit=self._callers.note_done,
        )
        host, _ = split_address(settings.http.address)
        origins = OriginPolicy(host, settings.http.allowed_hosts, settings.http.allowed_origins)
        paths = InferencePaths(settings.limits.max_nesting)

        def draining() -> bool:
            return self._leaving

        authenticator = self._callers.authenticator
        common = (self._plane, settings.http, settings.limits, origins, self._ids, paths)
        lane = InferenceLane(*common, draining, authenticator)
        door = Door(*common, service.application, draining, authenticator, self._open_paths)
        protocols = port_factory(lane, self._calls(), settings.http, self._clock)
        return server_config(door, protocols, settings.http, settings.serving.drain_timeout)

    def _publish(self, snapshot: ServingSnapshot) -> None:
        if snapshot.keys is not self._plane.snapshot.keys:
            self._callers.renew_keys(snapshot.keys)
        self._plane.snapshot = snapshot

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.records.flush_interval)
            await self._flush()

    async def _flush(self) -> None:
        """Write the audit log and hand the records to the sink, off the loop. Cancelled, it ends when what it has taken
        is written."""
        writing = asyncio.create_task(self._write())
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await writing
            raise

    async def _write(self) -> None:
        """A sink that fails loses what it was given, and says so."""
        await self._callers.flush()
        records = self._records.take()
        dropped, self._records.dropped = self._records.dropped, 0
        self._metrics.counter("ml_records_dropped_total").inc(dropped)
        if not records:
            return
        try:
            await asyncio.to_thread(self._sink.write, records)
            self._metrics.counter("ml_records_written_total").inc(len(records))
        except OSError as error:
            self._metrics.counter("ml_records_dropped_total").inc(len(records))
            log.error("records could not be written: %s", error.strerror)


@contextlib.contextmanager
def offline(
    settings: Settings, source: ModelSource, *, measured: bool = False
) -> Iterator[tuple[ServedVersion, Callable[[bytes], bytes]]]:
    """The request line without a network: the default version of the first model of ``source``, and a function from a
    body in the people's format to the answer. For ``keelway predict``, and ``keelway show --measure``, which wants it
    ``measured`` as a server does. Raises what the line raises."""
    if not measured:  # nobody else is there to share a run with
        settings = msgspec.structs.replace(
            settings,
            batching=msgspec.structs.replace(settings.batching, max_batch_size=1),
            runtime=msgspec.structs.replace(settings.runtime, micro_batch_rows=1),
        )
    clock = SystemClock()
    metrics = ServingMetrics()
    plane = DataPlane(Gate(Admission(1)), metrics, RecordRing(1), clock)
    wanted = source.wanted()[0]
    release = next(item for item in wanted.releases if item.version == wanted.default)
    loaded = load_version(source, release, settings, clock, metrics)
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
    return answer if isinstance(answer, Answer) else await answer.future()
