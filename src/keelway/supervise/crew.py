"""The workers of a server, and who takes whose place: starting them, restarting what has died, replacing one by one.

What they serve is agreed in ``agreement.py``; sockets, signals and the order of things are ``supervisor.py``'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from keelway.clock import Clock
from keelway.errors import KeelwayError
from keelway.supervise.child import Child, State
from keelway.supervise.messages import Drain, Force, Join, Retire

log = logging.getLogger("keelway.supervise")

#: Seconds before a worker that has died is started again: at once, then longer each time it dies soon after.
_PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
#: Seconds that a worker has to live for its death to be forgiven.
_SOUND: Final = 60.0
#: Seconds beyond the time of a drain after which a worker is killed.
_GRACE: Final = 5.0
#: Seconds that a worker has to end when it is told to stop at once.
_AT_ONCE: Final = 3.0


def pause(deaths: int) -> float:
    """Seconds to wait before starting a worker that has died ``deaths`` times in a row."""
    return _PAUSES[min(max(deaths, 1), len(_PAUSES)) - 1]


class Crew:
    """``launch`` starts the worker of a number, early or not. ``admit`` brings a loaded one up to what is served by the
    others, raising why it cannot be. ``lost`` is told of each worker that has gone. ``linger``: seconds that a worker
    which is replaced keeps connections without a request."""

    def __init__(
        self,
        size: int,
        launch: Callable[[int, bool], Awaitable[Child]],
        admit: Callable[[Child], Awaitable[None]],
        lost: Callable[[Child], None],
        linger: float,
        drain_timeout: float,
        clock: Clock,
        pause: Callable[[int], float] = pause,
    ) -> None:
        self._pause = pause
        self._numbers = range(1, size + 1)
        self._launch = launch
        self._admit = admit
        self._lost = lost
        self._linger = linger
        self._drain_timeout = drain_timeout
        self._clock = clock
        self._children: dict[int, Child] = {}
        #: Every worker that has not ended, and what waits for its end.
        self._all: dict[Child, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Whether workers are being replaced: not to be begun again meanwhile.
        self.reloading = False
        #: Held by whoever puts another worker in the place of a number.
        self._places = {number: asyncio.Lock() for number in self._numbers}
        #: How many workers took the place of another, by cause.
        self.restarts = {"died": 0, "reload": 0}
        #: Whether a worker that was told to stop has ended otherwise than in good order.
        self.abandoned = False

    def living(self) -> Sequence[Child]:
        """Every worker that has not ended, those that start or leave included."""
        return [child for child in self._all if child.state is not State.GONE]

    def admitted(self) -> Sequence[Child]:
        """The workers that have to agree on what is served: those that take part, or are about to."""
        return [child for child in self._all if child.admitted and child.state in (State.STARTING, State.SERVING)]

    def serving(self) -> Sequence[Child]:
        """The workers that take part."""
        return [child for child in self._all if child.state is State.SERVING]

    async def start(self) -> None:
        """Start all, and return when all of them are ready and take connections. Raises why one is not."""
        if self._stopping.is_set():
            return
        children = await asyncio.gather(*(self._begin(number, early=True) for number in self._numbers))
        for child in children:
            self._children[child.number] = child
        loading = asyncio.ensure_future(asyncio.gather(*(child.ready for child in children)))
        stopped = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not loading.done():
            loading.cancel()
            return
        loading.result()  # the first failure is that of the whole start
        await asyncio.gather(*map(self._take_in, children))
        for number in self._numbers:
            self._spawn(self._keep(number))

    async def reload(self) -> bool:
        """Replace one worker after the other: each new one takes connections before the old one stops. A new one that
        cannot start leaves the old one, and the rest, as they are. Whether any was replaced."""
        self.reloading, replaced = True, False
        try:
            for number in self._numbers:
                if self._stopping.is_set() or not await self._replace(number):
                    return replaced
                replaced = True
            log.info("every worker has been replaced")
            return replaced
        finally:
            self.reloading = False

    async def stop(self, delay: float) -> None:
        """Drain all workers at once and wait until they have ended; whoever does not in time is killed."""
        self._stopping.set()
        self._tell_all(Drain(0, delay))
        await self._wait(delay + self._drain_timeout + _GRACE)

    async def force(self) -> None:
        """Stop without waiting for requests under way."""
        self._stopping.set()
        self._tell_all(Force(0))
        await self._wait(_AT_ONCE)

    def _tell_all(self, message: Drain | Force) -> None:
        for child in self.living():
            child.state = State.LEAVING
            child.tell(message)

    async def _wait(self, seconds: float) -> None:
        end = self._clock.monotonic() + seconds
        while going := list(self._all.values()):
            left = end - self._clock.monotonic()
            await asyncio.wait(going, timeout=max(0.05, left))
            for child in self.living() if left <= 0 else ():
                log.error("worker %d is killed: it did not stop in time", child.number)
                child.kill()

    # One worker

    async def _begin(self, number: int, *, early: bool) -> Child:
        child = await self._launch(number, early)
        self._all[child] = asyncio.create_task(self._see_off(child))
        if self._stopping.is_set():  # told to stop while it was started
            child.state = State.LEAVING
            child.tell(Drain(0, 0.0))
        return child

    async def _see_off(self, child: Child) -> None:
        code = await asyncio.shield(child.gone)
        self._all.pop(child)
        self._lost(child)
        self.abandoned = self.abandoned or (self._stopping.is_set() and code != 0)

    async def _take_in(self, child: Child) -> None:
        """Let a loaded worker take connections. Raises why it cannot; then it has to go."""
        await self._admit(child)
        if await child.ask(Join) is not None and child.state is State.STARTING:
            child.state = State.SERVING

    async def _keep(self, number: int) -> None:
        """Start the worker ``number`` again whenever it ends without having been told to."""
        deaths, born = 0, self._clock.monotonic()
        while True:
            child = self._children[number]
            code = await asyncio.shield(child.gone)
            if self._stopping.is_set():
                return
            async with self._places[number]:
                if self._children[number] is not child:  # replaced by a reload
                    deaths, born = 0, self._clock.monotonic()
                    continue
                deaths = 1 if self._clock.monotonic() - born > _SOUND else deaths + 1
                log.error("worker %d has ended (%s); started again in %g s", number, _how(code), self._pause(deaths))
                deaths = await self._start_again(number, deaths)
                born = self._clock.monotonic()

    async def _start_again(self, number: int, deaths: int) -> int:
        """Put another worker in the place of a dead one; how often that has failed by now."""
        while not self._stopping.is_set():
            await asyncio.sleep(self._pause(deaths))
            if self._stopping.is_set():
                break
            try:
                self._children[number] = await self._begin(number, early=not self.serving())
            except KeelwayError as error:
                deaths += 1
                log.error("%s; tried again in %g s", error.message, self._pause(deaths))
                continue
            self.restarts["died"] += 1
            await self._board(self._children[number])
            break
        return deaths

    async def _board(self, child: Child) -> bool:
        """Wait until a new worker is loaded and takes connections; whether it does. One that cannot is ended."""
        try:
            await asyncio.shield(child.ready)
            await self._take_in(child)
        except KeelwayError as error:
            if not self._stopping.is_set():
                log.error("worker %d cannot start: %s", child.number, error.message)
            child.kill()
            return False
        return child.state is State.SERVING

    async def _replace(self, number: int) -> bool:
        async with self._places[number]:
            old = self._children[number]
            try:
                new = await self._begin(number, early=False)
            except KeelwayError as error:
                log.error("the reload ends here: %s", error.message)
                return False
            if not await self._board(new):
                log.error("the reload ends here: worker %d stays as it is", number)
                return False
            self._children[number] = new
        self.restarts["reload"] += 1
        if old.state is State.SERVING:
            old.state = State.LEAVING
        # As long as a load balancer is given: a connection in use closes behind its next answer.
        old.tell(Retire(0, self._linger))
        _, late = await asyncio.wait((old.gone,), timeout=self._linger + self._drain_timeout + _GRACE)
        if late:
            log.error("worker %d is killed: it did not make room in time", number)
            old.kill()
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
