"""Garbage collection: removes from the artifact store what no version refers to.

Kept is whatever an available version refers to, one that is archived too unless it is released, and whatever is newer
than the grace period, which pushes that are under way have to themselves. Files are removed under the lock that every
push is entered under, and a push is entered only if all its files are there (``references.require_stored``): however
the two meet, no version is left without its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from keelway.clock import Clock
from keelway.errors import CorruptArtifact, FailedPrecondition, NotFound
from keelway.registry.database import reading, writing
from keelway.registry.evidence import CollectEvidence
from keelway.registry.history import Change, check_text, lock, to_microseconds, token
from keelway.registry.references import references
from keelway.registry.schema import versions

if TYPE_CHECKING:
    from keelway.artifacts.blobs import BlobStore, Stored

#: Manifests that are read at once.
_AT_ONCE: Final = 16
#: How long the lock is held at a time, in seconds: pushes and promotions wait so long.
_TURN_SECONDS: Final = 1.0


class Collected(msgspec.Struct, frozen=True):
    """What was removed, or would be: ``blobs`` in number with their ``bytes``, unfinished uploads among them;
    ``versions`` that are archived and lose their files. And the blobs that stay, with their bytes."""

    blobs: int
    bytes: int
    versions: tuple[str, ...]
    kept_blobs: int
    kept_bytes: int


class _Holding(msgspec.Struct, frozen=True):
    """A version that has its files."""

    model: str
    version: str
    model_digest: str
    archived: bool
    documents: tuple[Any, ...]

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"


class Collection:
    """Raises as ``Registry`` and ``BlobStore`` do."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def run(
        self, blobs: BlobStore, *, grace: float, archived: bool = False, dry_run: bool = False, who: str, why: str
    ) -> Collected:
        """Remove what nothing refers to and is older than ``grace`` seconds.

        ``archived`` releases archived versions: their files go too, unless another version refers to them, and they
        cannot be restored until they are pushed again. ``FailedPrecondition`` if a version's manifest cannot be read:
        what it refers to is not known then, and nothing is removed.
        """
        check_text(who, "who")
        check_text(why, "why")
        before = self._clock.now() - grace
        known = _Known(blobs)
        known.begin(self._engine)
        released = known.release() if archived else ()
        if released and not dry_run:
            released = self._release(known, who, why)
        stored = list(blobs.stored())
        garbage = [item for item in stored if item.modified < before and item.digest not in known.live]
        removed = garbage if dry_run else self._remove(known, garbage, before, who, why)
        size, whole = (sum(item.size for item in items) for items in (removed, stored))
        return Collected(len(removed), size, released, len(stored) - len(removed), whole - size)

    def _release(self, known: _Known, who: str, why: str) -> tuple[str, ...]:
        with self._change(who, why) as (connection, change):
            known.look(connection)
            released = known.release()
            for holding in known.holdings:
                if holding.name in released:
                    row = (versions.c.model == holding.model) & (versions.c.version == holding.version)
                    connection.execute(versions.update().where(row).values(collected_at=change.at))
                    of_model = msgspec.structs.replace(change, model=holding.model)
                    evidence = CollectEvidence(collected_at=change.at).said()
                    of_model.record(connection, "collect", version=holding.version, evidence=evidence)
            known.look(connection)
        return released

    def _remove(self, known: _Known, garbage: Sequence[Stored], before: float, who: str, why: str) -> list[Stored]:
        removed: list[Stored] = []
        waiting = iter(garbage)
        more = bool(garbage)
        while more:
            with self._change(who, why) as (connection, change):
                known.look(connection)
                begun, size = len(removed), 0
                until = self._clock.monotonic() + _TURN_SECONDS
                for item in waiting:
                    if item.digest not in known.live and known.blobs.remove(item, before):
                        removed.append(item)
                        size += item.size
                    if self._clock.monotonic() > until:
                        break
                else:
                    more = False
                if len(removed) > begun:
                    change.record(connection, "gc", evidence={"blobs": len(removed) - begun, "bytes": size})
        return removed

    @contextmanager
    def _change(self, who: str, why: str) -> Iterator[tuple[sa.Connection, Change]]:
        with writing(self._engine) as connection:
            lock(connection)
            yield connection, Change("", who, why, to_microseconds(self._clock.now()))


class _Known:
    """What versions refer to, as far as it was looked up. Manifests never change: none is read twice."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self.holdings: tuple[_Holding, ...] = ()
        self.live: frozenset[str] = frozenset()
        self._token: int | None = None
        self._of: dict[tuple[str, str], frozenset[str]] = {}

    def begin(self, engine: sa.Engine) -> None:
        """A first look. Manifests are read when the transaction is over: there may be many, in a distant store."""
        with reading(engine) as connection:
            now, holdings = token(connection), tuple(_holdings(connection))
        self._learn(now, holdings)

    def look(self, connection: sa.Connection) -> None:
        """Learn what there is now; nothing is read if nothing has changed since the last look."""
        now = token(connection)
        if now != self._token:
            self._learn(now, tuple(_holdings(connection)))

    def _learn(self, now: int, holdings: tuple[_Holding, ...]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as reading_manifests:
            self.live = frozenset().union(*reading_manifests.map(self._references, holdings))
        self.holdings, self._token = holdings, now

    def release(self) -> tuple[str, ...]:
        """The archived versions whose model no other version refers to; from now on, what they refer to is garbage."""
        kept = self._referred(holding for holding in self.holdings if not holding.archived)
        released = tuple(
            holding.name
            for holding in self.holdings
            if holding.archived and holding.model_digest.removeprefix("sha256:") not in kept
        )
        self.live = self._referred(holding for holding in self.holdings if holding.name not in released)
        return released

    def _referred(self, holdings: Iterable[_Holding]) -> frozenset[str]:
        return frozenset().union(*map(self._references, holdings))

    def _references(self, holding: _Holding) -> frozenset[str]:
        key = (holding.model, holding.version)
        if key not in self._of:
            try:
                self._of[key] = references(self.blobs, holding.model_digest, *holding.documents)
            except (NotFound, CorruptArtifact) as error:
                raise FailedPrecondition(
                    f"what {holding.name} refers to cannot be told: {error.message}",
                    field="artifacts",
                    hint="is this its store? If so, push that version again",
                ) from error
        return self._of[key]


def _holdings(connection: sa.Connection) -> Iterator[_Holding]:
    columns = (versions.c[name] for name in ("model", "version", "model_digest", "state", "metadata", "detector"))
    query = sa.select(*columns).where(versions.c.collected_at.is_(None)).order_by("model", "version")
    for model, version, digest, state, *documents in connection.execute(query):
        yield _Holding(model, version, digest, state == "archived", tuple(documents))
