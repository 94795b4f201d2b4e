"""The fleet: what is loaded converges on what is wanted, and every change is one new snapshot.

New versions are loaded and warmed before the snapshot names them; old ones are closed after their last run. A version
that cannot be loaded leaves the one before it in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from keelway.artifacts.signing import Signature
from keelway.batching.curve import in_words
from keelway.clock import Clock
from keelway.config import Settings
from keelway.contract.names import fold
from keelway.errors import KeelwayError, ModelFailed, NotFound
from keelway.hosting.loading import Loaded, load_version, under_policy
from keelway.hosting.sources import ModelSource, Release, Wanted
from keelway.observe.metrics import ServingMetrics
from keelway.routing.snapshot import Batches, ServedModel, ServedVersion, ServingSnapshot
from keelway.types import StoredKey

log = logging.getLogger("keelway.hosting")

#: Seconds before a version that could not be loaded is tried again.
RETRY_AFTER = 30.0

_Key = tuple[str, str, str, int]


class IndexEntry(NamedTuple):
    """One line of the repository index. ``state`` is READY or UNAVAILABLE, ``reason`` why it is the latter, or why
    no reference names what is served any more."""

    name: str
    version: str
    state: str
    reason: str


class _Failure(NamedTuple):
    """When a release could not be loaded, why, and with which signatures: with others it may be."""

    when: float
    error: KeelwayError
    signatures: tuple[Signature, ...]


class Fleet:
    """Everything here runs on the event loop; loading and closing happen in worker threads."""

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        publish: Callable[[ServingSnapshot], None],
        metrics: ServingMetrics,
        clock: Clock,
    ) -> None:
        self._source = source
        self._settings = settings
        self._publish = publish
        self._metrics = metrics
        self._clock = clock
        self._snapshot = ServingSnapshot()
        self._loaded: dict[_Key, Loaded] = {}
        self._failures: dict[_Key, _Failure] = {}
        self._wanted: Sequence[Wanted] = ()
        self._unloaded: set[str] = set()
        self._asked: set[str] = set()
        self._token: object = None
        self._turn = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        #: Whether the last look at what is wanted has failed, so that what is served may not be that any more.
        self.stale = False
        self._found_source(True)
        #: Versions that are wanted and that no worker serves, because one of them cannot: for the index.
        self.held_back: Sequence[IndexEntry] = ()

    @property
    def ready(self) -> bool:
        """Whether every wanted model has a version that can answer."""
        wanted = {fold(model.name) for model in self._wanted} - self._unloaded - self._asked
        return self._token is not None and wanted <= self._snapshot.models.keys()

    async def start(self) -> None:
        """Load everything that is wanted. Raises the first failure: a server starts whole or not at all."""
        await self.reconcile()
        for failure in self._failures.values():
            raise failure.error

    async def follow(self, interval: float) -> None:
        """Reconcile whenever the source has changed, until cancelled. A source out of reach changes nothing."""
        while True:
            await asyncio.sleep(interval)
            try:
                token = await asyncio.to_thread(self._source.token)
                if token != self._token or self._retry_is_due():
                    await self.reconcile()
                if self.stale:
                    log.info("the registry can be read again")
                self._found_source(True)
            except KeelwayError as error:
                if not self.stale:
                    log.warning("the registry cannot be read; serving what is loaded: %s", error.message)
                self._found_source(False)
            except Exception as error:
                # Whatever a source raises, the next look at it may succeed.
                if not self.stale:
                    log.error("the source of models failed; serving what is loaded", exc_info=error)
                self._found_source(False)

    def _found_source(self, up: bool) -> None:
        self.stale = not up
        self._metrics.gauge("ml_source_up").set(float(up))

    def _retry_is_due(self) -> bool:
        latest = self._clock.monotonic() - RETRY_AFTER
        return any(
            failure.when < latest for (name, *_), failure in self._failures.items() if fold(name) not in self._unloaded
        )

    async def prepare(self, wanted: Sequence[Wanted]) -> Sequence[tuple[Release, KeelwayError]]:
        """Load what ``wanted`` needs, without serving it: ``reconcile`` does, once the source wants it, and closes what
        it does not want. Answers what could not be loaded, and why; what failed before is tried again."""
        releases = [release for model in wanted for release in model.releases]
        async with self._turn:
            for release in releases:
                self._failures.pop(release.key, None)
                await self._ensure_loaded(release)
            failures = [(release, self._failures.get(release.key)) for release in releases]
        return [(release, failure.error) for release, failure in failures if failure]

    async def reconcile(self) -> None:
        """One pass: read what is wanted, load what is missing, swap the snapshot, retire what is left over."""
        async with self._turn:
            token = await asyncio.to_thread(self._source.token)
            self._wanted = await asyncio.to_thread(self._source.wanted)
            keys = {release.key for wanted in self._wanted for release in wanted.releases}
            self._failures = {key: failure for key, failure in self._failures.items() if key in keys}
            if self._token is None:
                self._swap()  # nothing is loaded yet, but what is wanted is no longer unknown
            for wanted in self._wanted:
                if fold(wanted.name) not in self._unloaded:
                    for release in wanted.releases:
                        await self._ensure_loaded(release)
            self._swap()
            self._token = token
            self._found_source(True)

    async def load(self, name: str) -> None:
        """Serve ``name`` too (repository API). Raises why it cannot be loaded; the server stays as ready as it was."""
        await asyncio.to_thread(self._source.follow, name)
        folded = fold(name)
        self._asked.add(folded)
        self._unloaded.discard(folded)
        self._failures = {key: value for key, value in self._failures.items() if fold(key[0]) != folded}
        try:
            await self.reconcile()
        finally:
            self._asked.discard(folded)
            if folded not in self._snapshot.models:
                self._unloaded.add(folded)
        for key, failure in self._failures.items():
            if fold(key[0]) == folded:
                raise failure.error

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

    def renew_keys(self, keys: Sequence[StoredKey]) -> None:
        """From now on ``keys`` are those that hold. Waits for no model."""
        self._snapshot = replace(self._snapshot, keys=keys)
        self._publish(self._snapshot)

    def index(self) -> Sequence[IndexEntry]:
        """Every wanted version with its state."""
        entries = []
        for wanted in self._wanted:
            unloaded = fold(wanted.name) in self._unloaded
            for release in wanted.releases:
                failure = self._failures.get(release.key)
                ready = release.key in self._loaded and not unloaded
                missing = failure.error.message if failure else "unloaded" if unloaded else "loading"
                reason = release.lost if ready else missing
                entries.append(IndexEntry(release.name, release.version, "READY" if ready else "UNAVAILABLE", reason))
        return [*entries, *self.held_back]

    async def _ensure_loaded(self, release: Release) -> None:
        if release.key in self._loaded:
            return
        failure = self._failures.get(release.key)
        began = self._clock.monotonic()
        if failure and failure.signatures == release.signatures and began - failure.when <= RETRY_AFTER:
            return
        same = [item for item in self._loaded.values() if item.release.model_key == release.model_key]
        try:
            loaded = under_policy(same[0], release, self._clock) if same else await self._load(release)
        except KeelwayError as error:
            self._failures[release.key] = _Failure(self._clock.monotonic(), error, release.signatures)
            if self._token is not None:  # before that, the start fails and says so itself
                log.error("cannot load %s %s: %s", release.name, release.version, error.message)
            return
        except Exception as error:
            # A runtime may raise anything; the other models go on.
            unknown = ModelFailed(f"loading it failed with {type(error).__name__}; the log of the server says more")
            self._failures[release.key] = _Failure(self._clock.monotonic(), unknown, release.signatures)
            log.error("cannot load %s %s", release.name, release.version, exc_info=error)
            return
        self._failures.pop(release.key, None)
        self._loaded[release.key] = loaded
        if same:
            log.info("%s %s follows revision %d of its policy", *release.model_key[:2], release.policy.revision)
            return
        seconds = self._clock.monotonic() - began
        self._metrics.histogram("ml_model_load_seconds").labels(release.name).observe(seconds)
        log.info(
            "loaded %s %s in %.3f s; runs %s",
            release.name,
            release.version,
            seconds,
            "on the event loop" if loaded.served.executor is None else "in worker threads",
        )
        batching = loaded.served.metadata["batching"]
        if batching["policy"] != "none":
            log.info("%s %s: %s", release.name, release.version, in_words(batching))

    async def _load(self, release: Release) -> Loaded:
        thread = asyncio.to_thread(load_version, self._source, release, self._settings, self._clock, self._metrics)
        loading = asyncio.ensure_future(thread)
        try:
            return await asyncio.shield(loading)
        except asyncio.CancelledError:
            # The thread cannot be stopped: what it loads is closed again.
            self._close_later(_close_when_loaded(loading))
            raise

    def _swap(self) -> None:
        models = {}
        kept: set[_Key] = set()
        for wanted in self._wanted:
            if fold(wanted.name) in self._unloaded:
                continue
            chosen = self._choose(wanted)
            if chosen is not None:
                models[fold(wanted.name)], keys = chosen
                kept |= keys
        known = frozenset(fold(wanted.name) for wanted in self._wanted)
        self._snapshot = ServingSnapshot(models, known, self._snapshot.keys)
        self._publish(self._snapshot)
        for key in self._loaded.keys() - kept:
            self._retire(self._loaded.pop(key))
        self._show()

    def _choose(self, wanted: Wanted) -> tuple[ServedModel, set[_Key]] | None:
        """The model as it will be served, with the keys of its versions. Where a wanted version is not loaded, the one
        that answered in its place before goes on answering; without a default there is no model."""
        loaded = {item.version: self._loaded[item.key] for item in wanted.releases if item.key in self._loaded}
        current = self._snapshot.models.get(fold(wanted.name))

        def answering(version: str, before: str | None) -> str | None:
            if version in loaded or current is None or before is None:
                return version if version in loaded else None
            loaded.setdefault(before, self._loaded_as(current.versions[before]))
            return before

        default = answering(wanted.default, current.default if current else None)
        if default is None:
            return None
        aliases = {}
        for alias, version in wanted.aliases.items():
            found = answering(version, current.aliases.get(alias) if current else None)
            if found is not None or version == wanted.default:
                aliases[alias] = found or default
        versions = {version: item.served for version, item in loaded.items()}
        return ServedModel(wanted.name, versions, default, aliases), {item.release.key for item in loaded.values()}

    def _loaded_as(self, served: ServedVersion) -> Loaded:
        return next(item for item in self._loaded.values() if item.served is served)

    def _retire(self, loaded: Loaded) -> None:
        if any(other.opened is loaded.opened for other in self._loaded.values()):
            return  # the same model, under another policy
        self._close_later(_close_when_idle(loaded))

    def _close_later(self, closing: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _show(self) -> None:
        loaded, queued = self._metrics.gauge("ml_model_loaded"), self._metrics.gauge("ml_queue_rows")
        loaded.clear()
        queued.clear()
        for model in self._snapshot.models.values():
            for version in model.versions.values():
                loaded.labels(version.name, version.version).set(1)
                if version.executor is not None and version.batcher is not None:
                    queued.labels(version.name, version.version).set_function(partial(_rows_of, version.batcher))


def _rows_of(batcher: Batches) -> int:
    return batcher.waiting_rows


async def _close_when_idle(loaded: Loaded) -> None:
    await loaded.served.usage.idle()
    await asyncio.to_thread(loaded.close)


async def _close_when_loaded(loading: asyncio.Future[Loaded]) -> None:
    with contextlib.suppress(Exception):  # it could not be loaded: there is nothing to close
        await asyncio.to_thread((await loading).close)
