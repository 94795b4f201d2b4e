"""The cache stage: an answer that is kept is given again, and of equal requests at once one computes.

``look`` waits for nothing: with it a request finds its answer in memory, or finds nothing and computes it as it would
without a cache. ``fetch`` is for all others: it waits for a request that is under way, asks the store that processes
share, or makes an answer anew before it expires. The request line calls it; it knows no model, no format and no
transport.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

from keelway.cache.entries import Entry, answered, from_bytes, refused, to_bytes
from keelway.cache.flight import Flight, Turn
from keelway.cache.key import KeyMaker
from keelway.cache.memory import Kept, MemoryStore, jittered, refresh_is_due
from keelway.clock import Clock
from keelway.config import CacheSettings
from keelway.contract.names import fold
from keelway.contract.signature import ModelSignature
from keelway.errors import Cancelled, DeadlineExceeded
from keelway.ports import CacheStore
from keelway.types import Array

#: How a request was answered: from memory, from the shared store, by another request's run, or by a run of its own.
Result = Literal["hit", "stored", "shared", "miss"]
#: Each as RFC 9211 (Cache-Status) has it; ``bypass`` for a request without a key, empty where there is no cache.
STATUS: Final[Mapping[str, bytes]] = {
    "hit": b"keelway; hit",
    "stored": b"keelway; hit",
    "shared": b"keelway; fwd=miss; collapsed",
    "miss": b"keelway; fwd=miss",
    "bypass": b"keelway; fwd=bypass",
    "": b"",
}
#: Those behind which there is a run of the request's own.
OWN_RUN: Final = frozenset({"miss", "bypass", ""})
Outputs = Sequence[Array] | Awaitable[Sequence[Array]]

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.05
_KEY_MAKERS: Final = 4096


class Version(Protocol):
    """What the cache needs of a served version (``keelway.routing.snapshot.ServedVersion``)."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def model_digest(self) -> str: ...
    @property
    def policy_revision(self) -> int: ...
    @property
    def signature(self) -> ModelSignature: ...


class Seen(NamedTuple):
    """A request's own view of a key: the flight it found under way, and what was kept in memory."""

    key: bytes
    flight: Flight | None
    kept: Kept | None


class AnswerCache:
    """``salt`` is what, besides the model, may change the numbers that this server answers. ``chance`` is uniform in
    [0, 1). ``store`` is shared with other processes. ``noted`` is told of what it holds that is none of ours."""

    def __init__(
        self,
        settings: CacheSettings,
        memory: MemoryStore,
        clock: Clock,
        chance: Callable[[], float],
        salt: Sequence[str] = (),
        store: CacheStore | None = None,
        noted: Callable[[str, str], None] = lambda operation, outcome: None,
    ) -> None:
        self._settings = settings
        self._excluded = frozenset(map(fold, settings.exclude))
        self._memory = memory
        self._clock = clock
        self._chance = chance
        self._salt = tuple(salt)
        self._store = store
        self._noted = noted
        self._flights: dict[bytes, Flight] = {}
        self._makers: dict[tuple[str, str, str, int], KeyMaker | None] = {}

    def look(
        self, version: Version, inputs: Mapping[str, Array], wanted: tuple[str, ...], tenant: str | None
    ) -> Entry | Flight | Seen | None:
        """The answer; or the flight whose leader the caller now is, so that it computes and then says ``land`` or
        ``crash``, always; or how things stand, for ``fetch``. ``None``: not to be kept."""
        key = self.key(version, inputs, wanted, tenant)
        if key is None:
            return None
        return self.recall(key) or self.lead(key) or self.seen(key)

    def key(
        self, version: Version, inputs: Mapping[str, Array], wanted: tuple[str, ...], tenant: str | None
    ) -> bytes | None:
        """The key of an answer by ``version``; ``None`` if it is not to be kept."""
        identity = (version.name, version.version, version.model_digest, version.policy_revision)
        try:
            maker = self._makers[identity]
        except KeyError:
            maker = self._maker(identity, version.signature)
        return None if maker is None else maker.key(inputs, wanted, tenant)

    def recall(self, key: bytes) -> Entry | None:
        """What is kept in memory, unless it is this request's turn to make it anew."""
        kept = self._memory.get(key)
        if kept is None:
            return None
        beta = self._settings.early_refresh
        # Most answers are far from their end or cheap: for them no logarithm is taken.
        if beta > 0 and key not in self._flights:
            left = kept.expires - self._clock.monotonic()
            if left < 700.0 * beta * kept.entry.cost and refresh_is_due(left, kept.entry.cost, beta, self._chance()):
                return None
        return kept.entry

    def lead(self, key: bytes) -> Flight | None:
        """Begin to compute what ``recall`` did not find. ``None`` if it has to be fetched instead."""
        if self._store is not None or key in self._flights or self._memory.get(key) is not None:
            return None
        return self._take_off(key)

    def land(self, flight: Flight, outputs: Any, wanted: int) -> None:
        """A run has ended: keep ``outputs`` and give them to those who wait. Raises nothing, whatever they are."""
        entry = answered(outputs, wanted, self._clock.monotonic() - flight.began)
        if entry is not None:
            self._memory.put(flight.key, entry, self._ttl())
        self._arrive(flight, entry)

    def crash(self, flight: Flight, error: BaseException | None) -> None:
        """A run has failed; without an ``error`` its caller has left. Raises nothing."""
        entry = self._refusal(flight, error)
        if entry is not None:
            self._memory.put(flight.key, entry, self._settings.negative_ttl)
            self._arrive(flight, entry)
            return
        # A deadline is the leader's own, like its leaving: it says nothing of the model.
        failed = error is not None and not isinstance(error, DeadlineExceeded | Cancelled)
        if not flight.hand_over(failed=failed):
            self._flights.pop(flight.key, None)

    def seen(self, key: bytes) -> Seen:
        """How things stand as this request comes: what it may follow although, when its turn comes, it is over."""
        return Seen(key, self._flights.get(key), self._memory.get(key))

    async def fetch(self, seen: Seen, wanted: int, compute: Callable[[], Outputs]) -> tuple[Entry, Result]:
        """The answer and where it is from. ``compute`` is called once at most. Raises what it does, never what another
        request's did unless every one would, and is cancelled without harm to the others."""
        key, flight, kept = seen
        if flight is not None and flight.entry is not None:
            return flight.entry, "shared"
        if flight is None or flight.is_over:
            now = self._memory.get(key)
            if now is not None and now is not kept:
                return now.entry, "hit"
            flight = self._flights.get(key)
        if flight is None:
            flight = self._take_off(key)
        else:
            found = await flight.follow(self._gone)
            if isinstance(found, Entry):
                return found, "shared"
            if found is Turn.ALONE:
                return _uncounted(await _awaited(compute())), "miss"
        return await self._lead(flight, wanted, compute)

    async def close(self) -> None:
        """Let the store write what it has been given."""
        if self._store is not None:
            await self._store.close()

    async def _lead(self, flight: Flight, wanted: int, compute: Callable[[], Outputs]) -> tuple[Entry, Result]:
        held = self._memory.get(flight.key)
        try:
            if self._store is None:
                entry = await self._computed(flight, wanted, compute, None)
                return entry, "miss"
            return await self._found(flight, wanted, compute, self._store, held)
        except asyncio.CancelledError:
            self.crash(flight, None)
            raise
        except Exception as error:
            self.crash(flight, error)
            # It was to be made anew early. What is there still holds, unless the model now refuses such a request.
            if held is not None and self._refusal(flight, error) is None:
                return held.entry, "hit"
            raise

    async def _found(
        self, flight: Flight, wanted: int, compute: Callable[[], Outputs], store: CacheStore, held: Kept | None
    ) -> tuple[Entry, Result]:
        """The entry in the store, or a computed one: after a wait if another process computes it."""
        key, settings = flight.key, self._settings
        newer_than = 0.0 if held is None else held.expires - self._clock.monotonic() + 0.001
        patience = self._clock.monotonic() + settings.lease_wait
        pause = _FIRST_PAUSE
        while True:
            looked = await store.look(key, settings.lease, newer_than)
            if looked.value is not None:
                entry = from_bytes(looked.value, key, wanted)
                if entry is not None:
                    ttl = settings.ttl if entry.refusal is None else settings.negative_ttl
                    self._memory.put(key, entry, min(looked.ttl, ttl))
                    self._arrive(flight, entry)
                    return entry, "stored"
                self._noted("look", "garbage")
            if looked.token is not None or self._clock.monotonic() >= patience:
                return await self._computed(flight, wanted, compute, looked.token or b""), "miss"
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _computed(
        self, flight: Flight, wanted: int, compute: Callable[[], Outputs], token: bytes | None
    ) -> Entry:
        """The entry of a run, kept everywhere; ``token`` is the lease, ``None`` without a store."""
        flight.began = self._clock.monotonic()
        entry: Entry | None = None
        ttl = self._ttl()
        try:
            outputs = await _awaited(compute())
            entry = answered(outputs, wanted, self._clock.monotonic() - flight.began)
        except Exception as error:
            entry, ttl = self._refusal(flight, error), self._settings.negative_ttl
            raise
        finally:
            if self._store is not None and token is not None:
                value = to_bytes(entry, flight.key) if entry is not None and ttl > 0 else None
                self._store.keep(flight.key, value, ttl, token)
        if entry is not None:
            self._memory.put(flight.key, entry, ttl)
        self._arrive(flight, entry)
        return entry or _uncounted(outputs)

    def _take_off(self, key: bytes) -> Flight:
        flight = self._flights[key] = Flight(key, self._clock.monotonic())
        return flight

    def _arrive(self, flight: Flight, entry: Entry | None) -> None:
        self._flights.pop(flight.key, None)
        flight.arrive(entry)

    def _gone(self, flight: Flight) -> None:
        """A follower that was to lead has left before it could, and nobody else waits."""
        self._flights.pop(flight.key, None)

    def _refusal(self, flight: Flight, error: BaseException | None) -> Entry | None:
        return refused(error, self._clock.monotonic() - flight.began) if isinstance(error, Exception) else None

    def _ttl(self) -> float:
        return jittered(self._settings.ttl, self._settings.jitter, self._chance())

    def _maker(self, identity: tuple[str, str, str, int], signature: ModelSignature) -> KeyMaker | None:
        if len(self._makers) >= _KEY_MAKERS:
            self._makers.clear()
        excluded = fold(identity[0]) in self._excluded
        maker = None if excluded else KeyMaker((*self._salt, *map(str, identity)), signature)
        self._makers[identity] = maker
        return maker


async def _awaited(outputs: Outputs) -> Sequence[Array]:
    return await outputs if inspect.isawaitable(outputs) else outputs


def _uncounted(outputs: Sequence[Array]) -> Entry:
    """Outputs on their way to one caller only."""
    return Entry(outputs, None, 0.0, 0)
