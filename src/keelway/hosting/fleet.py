"""The fleet: what is loaded converges on what is wanted, and every change is one new snapshot.

New versions are loaded and warmed before the snapshot names them; old ones are closed after their last run. A version
that cannot be loaded leaves the one before it in place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from keelway.clock import Clock
from keelway.config import LimitSettings, RuntimeSettings
from keelway.contract.names import fold
from keelway.errors import KeelwayError, NotFound
from keelway.hosting.loading import Loaded, load_version
from keelway.hosting.sources import ModelSource, Release, Wanted
from keelway.observe.metrics import ServingMetrics
from keelway.routing.snapshot import ServedModel, ServedVersion, ServingSnapshot

log = logging.getLogger("keelway.hosting")

#: Seconds before a version that could not be loaded is tried again.
RETRY_AFTER = 30.0

_Key = tuple[str, str, str, int]


class IndexEntry(NamedTuple):
    """One line of the repository index. ``state`` is READY or UNAVAILABLE, ``reason`` why it is the latter."""

    name: str
    version: str
    state: str
    reason: str


class Fleet:
    """Everything here runs on the event loop; loading and closing happen in worker threads."""

    def __init__(
        self,
        source: ModelSource,
        runtime: RuntimeSettings,
        limits: LimitSettings,
        publish: Callable[[ServingSnapshot], None],
        metrics: ServingMetrics,
        clock: Clock,
    ) -> None:
        self._source = source
        self._runtime = runtime
        self._limits = limits
        self._publish = publish
        self._metrics = metrics
        self._clock = clock
        self._snapshot = ServingSnapshot()
        self._loaded: dict[_Key, Loaded] = {}
        self._failures: dict[_Key, tuple[float, KeelwayError]] = {}
        self._wanted: Sequence[Wanted] = ()
        self._unloaded: set[str] = set()
        self._token: object = None
        self._turn = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._source_down = False

    @property
    def ready(self) -> bool:
        """Whether every wanted model has a version that can answer."""
        wanted = {fold(model.name) for model in self._wanted} - self._unloaded
        return self._token is not None and wanted <= self._snapshot.models.keys()

    async def start(self) -> None:
        """Load everything that is wanted. Raises the first failure: a server starts whole or not at all."""
        await self.reconcile()
        for _, error in self._failures.values():
            raise error

    async def follow(self, interval: float) -> None:
        """Reconcile whenever the source has changed, until cancelled. A source out of reach changes nothing."""
        while True:
            await asyncio.sleep(interval)
            try:
                token = await asyncio.to_thread(self._source.token)
                retry = any(self._clock.monotonic() - when > RETRY_AFTER for when, _ in self._failures.values())
                if token != self._token or retry:
                    await self.reconcile()
                self._source_down = False
            except KeelwayError as error:
                if not self._source_down:
                    log.warning("the registry cannot be read; serving what is loaded: %s", error.message)
                self._source_down = True

    async def reconcile(self) -> None:
        """One pass: read what is wanted, load what is missing, swap the snapshot, retire what is left over."""
        async with self._turn:
            token = await asyncio.to_thread(self._source.token)
            self._wanted = await asyncio.to_thread(self._source.wanted)
            for wanted in self._wanted:
                if fold(wanted.name) not in self._unloaded:
                    for release in wanted.releases:
                        await self._ensure_loaded(release)
            self._swap()
            self._token = token

    async def load(self, name: str) -> None:
        """Serve ``name`` too (repository API). Raises why it could not be loaded."""
        await asyncio.to_thread(self._source.follow, name)
        self._unloaded.discard(fold(name))
        self._failures = {key: value for key, value in self._failures.items() if fold(key[0]) != fold(name)}
        await self.reconcile()
        for key, (_, error) in self._failures.items():
            if fold(key[0]) == fold(name):
                raise error

    async def unload(self, name: str) -> None:
        """Stop serving ``name``; requests under way finish. ``NotFound`` if it is not served."""
        if fold(name) not in self._snapshot.models:
            raise NotFound("no such model is loaded")
        self._unloaded.add(fold(name))
        async with self._turn:
            self._swap()

    async def close(self) -> None:
        """Close every model; called after the last request."""
        self._unloaded = {fold(model.name) for model in self._wanted}
        async with self._turn:
            self._swap()
        if self._closing:
            await asyncio.wait(self._closing)

    def index(self) -> Sequence[IndexEntry]:
        """Every wanted version with its state."""
        entries = []
        for wanted in self._wanted:
            unloaded = fold(wanted.name) in self._unloaded
            for release in wanted.releases:
                failure = self._failures.get(release.key)
                ready = release.key in self._loaded and not unloaded
                reason = "" if ready else "unloaded" if unloaded else failure[1].message if failure else "loading"
                entries.append(IndexEntry(release.name, release.version, "READY" if ready else "UNAVAILABLE", reason))
        return entries

    async def _ensure_loaded(self, release: Release) -> None:
        if release.key in self._loaded:
            return
        failure = self._failures.get(release.key)
        if failure and self._clock.monotonic() - failure[0] <= RETRY_AFTER:
            return
        began = self._clock.monotonic()
        try:
            loaded = await asyncio.to_thread(
                load_version, self._source, release, self._runtime, self._limits, self._clock
            )
        except KeelwayError as error:
            self._failures[release.key] = (self._clock.monotonic(), error)
            if self._token is not None:  # before that, the start fails and says so itself
                log.error("cannot load %s %s: %s", release.name, release.version, error.message)
            return
        self._failures.pop(release.key, None)
        self._loaded[release.key] = loaded
        seconds = self._clock.monotonic() - began
        self._metrics.histogram("ml_model_load_seconds").labels(release.name).observe(seconds)
        log.info(
            "loaded %s %s in %.3f s; runs %s",
            release.name,
            release.version,
            seconds,
            "on the event loop" if loaded.served.executor is None else "in worker threads",
        )

    def _swap(self) -> None:
        models = {}
        kept: set[_Key] = set()
        for wanted in self._wanted:
            if fold(wanted.name) in self._unloaded:
                continue
            loaded = [self._loaded[release.key] for release in wanted.releases if release.key in self._loaded]
            loaded += self._fallback(wanted, loaded)
            if loaded:
                models[fold(wanted.name)] = _served_model(wanted, loaded)
                kept |= {item.release.key for item in loaded}
        known = frozenset(fold(wanted.name) for wanted in self._wanted)
        self._snapshot = ServingSnapshot(models, known)
        self._publish(self._snapshot)
        for key in self._loaded.keys() - kept:
            self._retire(self._loaded.pop(key))
        self._show()

    def _fallback(self, wanted: Wanted, loaded: Sequence[Loaded]) -> Sequence[Loaded]:
        """The version that answers now, kept while the wanted default cannot be loaded."""
        if any(item.release.version == wanted.default for item in loaded):
            return ()
        current = self._snapshot.models.get(fold(wanted.name))
        if current is None:
            return ()
        served = current.versions[current.default]
        return [item for item in self._loaded.values() if item.served is served and item not in loaded]

    def _retire(self, loaded: Loaded) -> None:
        task = asyncio.create_task(_close_when_idle(loaded))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _show(self) -> None:
        gauge = self._metrics.gauge("ml_model_loaded")
        gauge.clear()
        for model in self._snapshot.models.values():
            for version in model.versions.values():
                gauge.labels(version.name, version.version).set(1)


def _served_model(wanted: Wanted, loaded: Sequence[Loaded]) -> ServedModel:
    versions: dict[str, ServedVersion] = {item.release.version: item.served for item in loaded}
    default = wanted.default if wanted.default in versions else loaded[-1].release.version
    aliases = {alias: version for alias, version in wanted.aliases.items() if version in versions}
    return ServedModel(wanted.name, versions, default, aliases)


async def _close_when_idle(loaded: Loaded) -> None:
    await loaded.served.usage.idle()
    await asyncio.to_thread(loaded.close)
