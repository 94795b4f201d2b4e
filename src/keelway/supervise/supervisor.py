"""``keelway serve --workers N``: one process that holds the sockets and the registry, and workers that answer.

It answers no request itself and loads no model, so that nothing a caller or a model does can end it. Its order: sockets
→ what is wanted → workers ready → serving; on SIGTERM all workers drain, on SIGHUP they are replaced one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from keelway.clock import Clock, SystemClock
from keelway.config import Settings
from keelway.edge.accepting import Seats
from keelway.edge.listening import Addresses, address_of, bind, resolve
from keelway.edge.tls import certificates
from keelway.errors import FailedPrecondition, KeelwayError
from keelway.hosting.caching import answer_cache
from keelway.hosting.callers import check_callers
from keelway.hosting.keys import KeyFollower
from keelway.hosting.limiting import check_rate_limits
from keelway.hosting.sources import ModelSource
from keelway.observe.audit import AuditLog
from keelway.observe.merging import Ledger, Series, Table, merge
from keelway.observe.metrics import METRICS, ServingMetrics
from keelway.ports import KeySource
from keelway.supervise.agreement import Agreement
from keelway.supervise.child import Child, State, close_all, spawn
from keelway.supervise.crew import Crew
from keelway.supervise.messages import AskPage, Keys, Page, Report, Scrape, Start, ToSupervisor, Used, own_folder
from keelway.transports.rest.access import open_paths
from keelway.types import AuditEvent, StoredKey

log = logging.getLogger("keelway.supervise")

#: Seconds that a worker may take to say what it has counted; then what it said last counts.
_COUNTING = 1.0


class Supervisor:
    """``file`` is the ONNX file that is served without a registry, or empty. ``reload`` reads the settings anew."""

    def __init__(
        self,
        settings: Settings,
        source: ModelSource,
        file: str = "",
        reload: Callable[[], Settings] | None = None,
        clock: Clock | None = None,
        keys: KeySource | None = None,
    ) -> None:
        if settings.serving.allow_model_control:
            raise FailedPrecondition(
                "models are not loaded and unloaded over the network with several workers: a request reaches only one",
                hint="serve with --workers 1, or leave --allow-model-control out and move aliases: keelway promote",
            )
        self._settings = settings
        self._file = file
        self._reload = reload
        self._clock = clock or SystemClock()
        # What does not fit together is said here, and not by a worker that ends.
        self._check(settings)
        self._audit = AuditLog(settings.audit.file, self._clock)
        self._keys: KeyFollower | None = None
        if keys is not None and settings.auth.keys:
            self._keys = KeyFollower(keys, self._tell_keys, self._note, self._clock)
        self._ledger = Ledger()
        serving = settings.serving
        self._crew = Crew(
            serving.workers,
            self._launch,
            self._admit,
            self._lost,
            serving.drain_delay,
            serving.drain_timeout,
            self._clock,
        )
        self._agreement = Agreement(source, self._crew.admitted, self._clock)
        # One seat more than workers: during a reload there is one more.
        self._free = list(range(2 * serving.workers))
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._serving = self._stopping = False

    def run(self, on_serving: Callable[[Addresses], None] = lambda addresses: None) -> int:
        """Serve until SIGTERM or SIGINT; the exit code. ``on_serving`` is told the addresses once all workers are
        ready.

        Raises ``KeelwayError`` when the server cannot start: the address is taken or not allowed, a model does not
        load in a worker."""
        return asyncio.run(self._run(on_serving))

    async def _run(self, on_serving: Callable[[Addresses], None]) -> int:
        with contextlib.ExitStack() as held:
            self._hold(held)
            with self._signals():
                try:
                    if self._keys is not None:
                        await self._keys.start()
                    await self._agreement.begin()
                    await self._crew.start()
                    if not self._stopping:
                        self._serving = True
                        on_serving(self._addresses)
                        self._spawn(self._agreement.follow(self._settings.registry.poll_interval))
                        if self._keys is not None:
                            self._spawn(self._follow_keys(self._keys))
                        await self._stopped.wait()
                finally:
                    await self._end()
        return int(self._crew.abandoned)

    def _check(self, settings: Settings) -> None:
        """Raises what a worker with ``settings`` would end by."""
        check_callers(settings, self._clock)
        check_rate_limits(settings, self._clock)
        answer_cache(settings, ServingMetrics(), self._clock)
        open_paths(settings.auth.public)
        certificates(settings.tls, lambda expires: None)

    def _hold(self, held: contextlib.ExitStack) -> None:
        """Take the sockets and whatever else the workers inherit."""
        settings = self._settings
        http, grpc = settings.http, settings.grpc
        listeners = [held.enter_context(bind(resolve(http.address, "http.address", settings.anywhere)))]
        if grpc.address:
            listeners.append(held.enter_context(bind(resolve(grpc.address, "grpc.address", settings.anywhere))))
        self._addresses = Addresses.of(settings, *map(address_of, listeners))
        seats = [Seats.made(len(self._free)) for _ in listeners]
        self._seats = [shared for shared, _ in seats]
        self._ports = [(listener, inherited) for listener, (_, inherited) in zip(listeners, seats, strict=True)]
        self._lifeline, life = os.pipe()
        held.callback(close_all, (self._lifeline, life, *(inherited for _, inherited in seats)))
        self._folder = tempfile.mkdtemp(prefix="keelway-")
        held.callback(shutil.rmtree, self._folder, ignore_errors=True)

    async def _end(self) -> None:
        if self._stopping:
            await self._stopped.wait()
        else:  # the start has failed
            await self._crew.force()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: partial(self._stop, self._settings.serving.drain_delay),
            signal.SIGINT: partial(self._stop, 0.0),
            signal.SIGHUP: lambda: self._spawn(self._reload_all()),
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop(self, delay: float) -> None:
        """Drain at the first signal, stop at once at the second."""
        again, self._stopping = self._stopping, True
        self._spawn(self._stop_now() if again else self._drain(delay))

    async def _drain(self, delay: float) -> None:
        log.info("draining")
        await self._crew.stop(delay)
        self._stopped.set()

    async def _stop_now(self) -> None:
        await self._crew.force()
        self._stopped.set()

    async def _reload_all(self) -> None:
        if not self._serving:
            log.warning("nothing is reloaded before the server serves")
            return
        if self._crew.reloading:
            log.warning("a reload is under way already")
            return
        before = self._settings
        if self._reload is not None:
            try:
                settings = unmoved(self._reload(), self._settings)
                self._check(settings)
                self._settings = settings
            except KeelwayError as error:
                log.error("nothing is reloaded, the settings do not hold: %s", error.message)
                return
        log.info("replacing one worker after the other")
        if not await self._crew.reload():
            # No worker serves by them. One that has to be started again must not fail for what none could start with.
            self._settings = before

    # Workers

    async def _launch(self, number: int, early: bool) -> Child:
        agreement, seat = self._agreement, self._free.pop(0)
        start = Start(
            agreement.turn,
            number,
            self._settings,
            seat,
            2 * self._settings.serving.workers,
            early,
            agreement.wanted,
            agreement.held_back,
            self._file,
            self._folder,
            tuple(self._keys.keys) if self._keys else (),
        )
        return await spawn(start, self._ports, self._lifeline, self._heard)

    def _note(self, event: AuditEvent) -> None:
        self._audit.note(event)
        self._audit.flush()  # a line now and then: nobody waits here

    def _tell_keys(self, keys: Sequence[StoredKey]) -> None:
        for child in self._crew.living():
            child.tell(Keys(0, tuple(keys)))

    async def _follow_keys(self, keys: KeyFollower) -> None:
        try:
            await keys.follow(self._settings.registry.poll_interval)
        finally:
            self._audit.close()

    async def _admit(self, child: Child) -> None:
        if self._keys is not None:  # they may have changed while it started
            child.tell(Keys(0, tuple(self._keys.keys)))
        await self._agreement.admit(child)

    def _lost(self, child: Child) -> None:
        for seats in self._seats:
            seats.vacate(child.seat)
        self._ledger.left(child)
        shutil.rmtree(own_folder(self._folder, child.seat), ignore_errors=True)
        self._free.append(child.seat)

    def _heard(self, child: Child, message: ToSupervisor) -> None:
        if isinstance(message, Report):
            self._ledger.heard(child, message.tables)
        elif isinstance(message, Used):
            if self._keys is not None:
                self._spawn(self._keys.note(message.used))
        elif isinstance(message, AskPage):
            self._spawn(self._answer_page(child, message.turn))

    async def _answer_page(self, child: Child, turn: int) -> None:
        await asyncio.gather(*(one.ask(Scrape, _COUNTING) for one in self._crew.living()))
        child.tell(Page(turn, merge((self._ledger.page(), tuple(self._own_tables())))))

    def _own_tables(self) -> Iterator[Table]:
        """What only the supervisor knows."""
        states = [child.state for child in self._crew.living()]
        workers = {str(state): states.count(state) for state in (State.SERVING, State.STARTING, State.LEAVING)}
        for name, label, values in (
            ("ml_workers", "state", workers),
            ("ml_worker_restarts_total", "cause", self._crew.restarts),
        ):
            metric = next(metric for metric in METRICS if metric.name == name)
            series = tuple(Series(name, ((label, value),), float(count)) for value, count in values.items())
            yield Table(name.removesuffix("_total"), metric.kind, metric.help, series)
        source = next(metric for metric in METRICS if metric.name == "ml_source_up")
        up = Series(source.name, (), float(not self._agreement.stale))
        yield Table(source.name, source.kind, source.help, (up,))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def unmoved(new: Settings, old: Settings) -> Settings:
    """``new``, but for what only a restart can change: addresses, whether TLS is spoken, the number of
    workers, and what is served.

    ``FailedPrecondition`` if callers would have to prove who they are in a way that they did not before, or no more: a
    reload must not open a door by mistake."""
    if (new.demands_credentials, new.auth.keys) != (old.demands_credentials, old.auth.keys):
        raise FailedPrecondition("whether credentials or API keys are asked for changes only with a restart")
    replace = msgspec.structs.replace
    serving = replace(new.serving, workers=old.serving.workers, models=old.serving.models, allow_model_control=False)
    return replace(
        new,
        registry=old.registry,
        http=replace(new.http, address=old.http.address, insecure=old.http.insecure),
        grpc=replace(new.grpc, address=old.grpc.address),
        tls=new.tls if bool(new.tls.certificate) == bool(old.tls.certificate) else old.tls,
        serving=serving,
    )
