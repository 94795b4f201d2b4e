"""What all workers serve: one asks the registry, all load, and then all swap.

The supervisor looks at the registry once per interval. A wish that has changed is first prepared by every worker, each
loading what is new without serving it; only when all have answered is it committed, with what every one of them can
serve. A version that one worker cannot load waits in all of them, and is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from keelway.clock import Clock
from keelway.errors import KeelwayError
from keelway.hosting.fleet import RETRY_AFTER, IndexEntry
from keelway.hosting.sources import ModelSource, Wanted
from keelway.hosting.told import ReleaseKey, settle
from keelway.supervise.child import Child, State
from keelway.supervise.messages import Commit, Failure, Prepare, Prepared

log = logging.getLogger("keelway.supervise")

#: Seconds that a worker may take to load what is new. One that takes longer hangs, and would hold up all.
_LOADING = 600.0


class Agreement:
    """``admitted`` answers the workers that have been admitted and not left since."""

    def __init__(self, source: ModelSource, admitted: Callable[[], Sequence[Child]], clock: Clock) -> None:
        self._source = source
        self._admitted = admitted
        self._clock = clock
        self._token: object = None
        self._retry_at: float | None = None
        #: Whether the last look at what is wanted has failed.
        self.stale = False
        self._swapping = asyncio.Lock()
        #: What every worker serves, and what waits because one of them cannot. ``turn`` grows with each change.
        self.wanted: tuple[Wanted, ...] = ()
        self.held_back: tuple[IndexEntry, ...] = ()
        self.turn = 0

    async def begin(self) -> None:
        """Read what is wanted, before the first worker starts. Raises what the source raises."""
        self._token = await asyncio.to_thread(self._source.token)
        self.wanted = tuple(await asyncio.to_thread(self._source.wanted))

    async def admit(self, child: Child) -> None:
        """Bring a worker that has loaded up to what the others serve, in case that has changed meanwhile. Raises why
        it cannot serve that."""
        async with self._swapping:
            if child.turn != self.turn:
                answer = await self._commit(child)
                for _, failure in answer.failures if isinstance(answer, Prepared) else ():
                    raise failure.error()
            child.admitted = True

    async def follow(self, interval: float) -> None:
        """Ask the source every ``interval`` seconds, until cancelled. One out of reach changes nothing."""
        while True:
            await asyncio.sleep(interval)
            try:
                token = await asyncio.to_thread(self._source.token)
                if token != self._token or self._retry_is_due():
                    await self._agree(await asyncio.to_thread(self._source.wanted))
                    self._token = token
                if self.stale:
                    log.info("the registry can be read again")
                self.stale = False
            except KeelwayError as error:
                if not self.stale:
                    log.warning("the registry cannot be read; serving what is loaded: %s", error.message)
                self.stale = True
            except Exception as error:
                # Whatever a source raises, the next look at it may succeed.
                if not self.stale:
                    log.error("the source of models failed; serving what is loaded", exc_info=error)
                self.stale = True

    def _retry_is_due(self) -> bool:
        return self._retry_at is not None and self._clock.monotonic() >= self._retry_at

    async def _agree(self, wanted: Sequence[Wanted]) -> None:
        failures: dict[ReleaseKey, Failure] = {}
        prepared: set[Child] = set()
        while True:
            missing = [child for child in self._admitted() if child not in prepared]
            if missing:
                for failed in await asyncio.gather(*(self._prepare(child, wanted) for child in missing)):
                    failures |= failed
                prepared.update(missing)
                continue
            async with self._swapping:
                # Whoever has come meanwhile is asked as well: nobody may swap alone, later than the others.
                if all(child in prepared for child in self._admitted()):
                    await self._swap(wanted, failures)
                    return

    async def _prepare(self, child: Child, wanted: Sequence[Wanted]) -> dict[ReleaseKey, Failure]:
        answer = await child.ask(partial(_prepare, tuple(wanted)), _LOADING)
        if isinstance(answer, Prepared):
            for key, failure in answer.failures:
                log.error("worker %d cannot load %s %s: %s", child.number, key[0], key[1], failure.message)
            return dict(answer.failures)
        if child.state is not State.GONE:
            log.error("worker %d is killed: it did not load what is new in %g s", child.number, _LOADING)
            child.kill()
            await asyncio.wait((child.gone,))
        return {}

    async def _swap(self, wanted: Sequence[Wanted], failures: dict[ReleaseKey, Failure]) -> None:
        self.wanted, waiting = settle(wanted, self.wanted, failures)
        self.held_back = tuple(
            IndexEntry(release.name, release.version, "UNAVAILABLE", failures[release.key].message)
            for release in waiting
        )
        self.turn += 1
        self._retry_at = self._clock.monotonic() + RETRY_AFTER if waiting else None
        for release in waiting:
            log.warning("%s %s waits in all workers", release.name, release.version)
        await asyncio.gather(*map(self._commit, self._admitted()))

    async def _commit(self, child: Child) -> object:
        child.turn = self.turn
        return await child.ask(partial(_commit, self.wanted, self.held_back), _LOADING)


def _prepare(wanted: tuple[Wanted, ...], turn: int) -> Prepare:
    return Prepare(turn, wanted)


def _commit(wanted: tuple[Wanted, ...], held_back: tuple[IndexEntry, ...], turn: int) -> Commit:
    return Commit(turn, wanted, held_back)
