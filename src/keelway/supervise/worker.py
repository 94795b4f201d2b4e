"""What a worker runs: the app of a lone server, on the shared sockets, told by its supervisor what to serve.

``python -m keelway.supervise.worker MESSAGES LIFELINE LISTENER SEATS [LISTENER SEATS]``, inherited descriptors, the
last two of gRPC's own port; everything else comes as the first message, so that no secret of the settings stands in a
list of processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from prometheus_client import CollectorRegistry

from keelway.app import App
from keelway.config import Settings
from keelway.edge.accepting import Berth, Place, Seats
from keelway.errors import KeelwayError, ModelFailed, Unavailable
from keelway.hosting.keys import NOTE_INTERVAL
from keelway.hosting.loading import usable_cpus
from keelway.hosting.told import ToldSource
from keelway.observe.logs import configure
from keelway.observe.merging import page_registry, tables
from keelway.supervise.messages import (
    AskPage,
    Commit,
    Done,
    Drain,
    Failed,
    Failure,
    Force,
    Join,
    Keys,
    Message,
    Page,
    Prepare,
    Prepared,
    Ready,
    Report,
    Retire,
    Scrape,
    Start,
    ToWorker,
    Used,
    heard_by_worker,
    own_folder,
    send,
)
from keelway.supervise.opening import opener

log = logging.getLogger("keelway.supervise")

#: Seconds between two reports that nobody asked for: what a worker has counted since is lost when it is killed.
_REPORTS = 1.0
#: Seconds that a page of metrics may take to come together.
_PAGE_SECONDS = 5.0
#: Seconds beyond the drain timeout that a worker without a supervisor may live.
_ORPHANED = 5.0


class Worker:
    """``run`` returns the exit code."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: Start, berth: Berth) -> None:
        self._reader = reader
        self._writer = writer
        self._start = start
        self._settings = own_share(start.settings)
        self._source = ToldSource(start.wanted, opener(start.settings, start.file, Path(start.folder)))
        self._app = App(self._settings, self._source, berth=berth, scrape=self._scrape)
        self._app.fleet.held_back = start.held_back
        self._app.fleet.renew_keys(start.keys)
        self._pages: dict[int, asyncio.Future[Page]] = {}
        self._asked = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, lifeline: int) -> int:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, args=(lifeline, loop), name="keelway-lifeline", daemon=True).start()
        self._spawn(self._listen())
        self._spawn(self._report_forever())
        self._spawn(self._say_used_forever())
        try:
            await self._app.serve(lambda _: self._say(Ready(0)))
        except KeelwayError as error:
            self._say(Failed(0, Failure.of(error)))
            return 1
        except Exception as error:
            log.error("the worker cannot go on", exc_info=error)
            self._say(Failed(0, Failure.of(ModelFailed(f"a worker failed with {type(error).__name__}"))))
            return 1
        finally:
            self._report(0)
            self._say_used()
            await self._close()
        return 1 if self._app.abandoned else 0

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 1.0)

    # What the supervisor says

    async def _listen(self) -> None:
        while (message := await heard_by_worker(self._reader)) is not None:
            self._obey(message)

    def _obey(self, message: ToWorker) -> None:
        match message:
            case Join():
                self._spawn(self._join(message.turn))
            case Prepare():
                self._spawn(self._prepare(message))
            case Commit():
                self._spawn(self._commit(message))
            case Scrape():
                self._report(message.turn)
            case Page():
                waiting = self._pages.get(message.turn)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case Drain():
                self._spawn(self._app.drain(message.delay))
            case Retire():
                self._spawn(self._app.retire(message.linger))
            case Force():
                self._app.force()
            case Keys():
                self._app.fleet.renew_keys(message.keys)
            case Start():
                log.error("the supervisor has lost count")

    async def _join(self, turn: int) -> None:
        try:
            await self._app.join()
        except KeelwayError as error:
            log.error("the worker cannot take part: %s", error.message)
            self._app.force()
            return
        self._say(Done(turn))

    async def _prepare(self, message: Prepare) -> None:
        failures = await self._app.fleet.prepare(message.wanted)
        self._say(Prepared(message.turn, tuple((release.key, Failure.of(error)) for release, error in failures)))

    async def _commit(self, message: Commit) -> None:
        failures = await self._app.fleet.prepare(message.wanted)  # loaded already, but for one that came late
        self._source.tell(message.wanted)
        self._app.fleet.held_back = message.held_back
        await self._app.fleet.reconcile()
        self._say(Prepared(message.turn, tuple((release.key, Failure.of(error)) for release, error in failures)))

    # What the worker says

    def _say(self, message: Message) -> None:
        send(self._writer, message)

    def _report(self, turn: int) -> None:
        self._say(Report(turn, tables(self._app.metrics.registry)))

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(_REPORTS)
            self._report(0)

    async def _say_used_forever(self) -> None:
        while True:
            await asyncio.sleep(NOTE_INTERVAL)
            self._say_used()

    def _say_used(self) -> None:
        used = self._app.take_used()
        if used:
            self._say(Used(0, dict(used)))

    async def _scrape(self) -> CollectorRegistry:
        """The metrics of all workers, by way of the supervisor. ``Unavailable`` if it does not answer."""
        self._asked += 1
        asked, page = self._asked, asyncio.get_running_loop().create_future()
        self._pages[asked] = page
        self._say(AskPage(asked))
        try:
            return page_registry((await asyncio.wait_for(page, _PAGE_SECONDS)).tables)
        except TimeoutError:
            raise Unavailable("the metrics of all workers could not be collected", retry_after=1.0) from None
        finally:
            del self._pages[asked]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Without a supervisor

    def _watch(self, lifeline: int, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own, which a model on the event loop cannot hold up."""
        os.read(lifeline, 1)
        log.error("the supervisor has gone: this worker ends too")
        _call(loop, self._orphaned)
        wait = threading.Event()
        wait.wait(self._settings.serving.drain_timeout + _ORPHANED)
        os._exit(1)

    def _orphaned(self) -> None:
        # Nobody else is left to tidy up; what is mapped from there stays readable.
        shutil.rmtree(self._start.folder, ignore_errors=True)
        self._spawn(self._app.retire(0.0))


def _call(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended before
        loop.call_soon_threadsafe(what)


def own_share(settings: Settings) -> Settings:
    """``settings`` of one of several workers: threads that are to be counted are this worker's share of the CPUs, and
    where that is less than one, it does not keep the others from it while it has nothing to do."""
    cpus, workers = usable_cpus(), settings.serving.workers
    runtime, http = settings.runtime, settings.http
    if not runtime.threads:
        runtime = msgspec.structs.replace(runtime, threads=max(1, cpus // workers))
    if cpus < workers:
        http = msgspec.structs.replace(http, busy_poll_us=0.0)
    return msgspec.structs.replace(settings, runtime=runtime, http=http)


async def _serve(messages: socket.socket, lifeline: int, ports: Sequence[tuple[int, int]]) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=messages)
    start = await heard_by_worker(reader)
    if not isinstance(start, Start):
        return 1  # the supervisor has gone before it said a word
    configure(start.settings.logs.level, start.settings.logs.format, worker=start.number)
    # Copies of models are made here. Of a worker that is killed the supervisor removes them.
    place = own_folder(start.folder, start.seat)
    place.mkdir(mode=0o700)
    tempfile.tempdir = str(place)
    http, *more = (
        Place(socket.socket(fileno=listener), Seats.inherited(seats, start.seats), start.seat)
        for listener, seats in ports
    )
    berth = Berth(http, start.early, asyncio.Event(), more[0] if more else None)
    try:
        worker = Worker(reader, writer, start, berth)
    except KeelwayError as error:
        send(writer, Failed(0, Failure.of(error)))
        await writer.drain()
        return 1
    return await worker.run(lifeline)


def main() -> None:
    messages, lifeline, *places = inherited = [int(word) for word in sys.argv[1:]]
    for descriptor in inherited:
        os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=messages)
    channel.setblocking(False)
    code = uvloop.run(_serve(channel, lifeline, list(zip(places[::2], places[1::2], strict=True))))
    logging.shutdown()
    # A thread inside a model cannot be stopped, and the interpreter would wait for it; everything is written.
    os._exit(code)


if __name__ == "__main__":
    main()
