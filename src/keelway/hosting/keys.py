"""API keys on their way from the registry to where callers are let in: read at the start, then followed.

Apart from the models, which may take minutes to load: a key that was revoked must not hold that long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from keelway.clock import Clock
from keelway.errors import KeelwayError
from keelway.ports import KeySource
from keelway.types import AuditEvent, StoredKey

if TYPE_CHECKING:  # workers follow nothing themselves, and load no library that speaks to databases
    from keelway.registry.store import Registry

log = logging.getLogger("keelway.hosting")

#: Seconds between two looks, at most: a key that was revoked holds no longer than that, and the look itself.
LONGEST_INTERVAL = 1.0
#: Seconds between two times that the last use of keys is written down.
NOTE_INTERVAL = 30.0


class RegistryKeys:
    """The keys of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def token(self) -> object:
        return self._registry.state_token()

    def keys(self) -> Sequence[StoredKey]:
        return self._registry.keys.holding()

    def note_used(self, used: Mapping[str, float]) -> None:
        self._registry.keys.note_used(used)


class KeyFollower:
    """Reads the keys of ``source`` and hands those that are new to ``publish``; ``audit`` hears what has changed."""

    def __init__(
        self,
        source: KeySource,
        publish: Callable[[Sequence[StoredKey]], None],
        audit: Callable[[AuditEvent], None],
        clock: Clock,
    ) -> None:
        self._source = source
        self._publish = publish
        self._audit = audit
        self._clock = clock
        self._token: object = None
        self._down = False
        #: Those that were handed over last.
        self.keys: Sequence[StoredKey] = ()

    async def start(self) -> None:
        """Read the keys for the first time. Raises what the source raises: nobody could be let in."""
        self._token = await asyncio.to_thread(self._source.token)
        self.keys = await asyncio.to_thread(self._source.keys)
        self._publish(self.keys)
        if not self.keys:
            log.warning("there is no API key yet; make one: keelway keys create NAME --scope predict:*")

    async def follow(self, interval: float) -> None:
        """Look for other keys again and again, until cancelled. A source out of reach changes nothing: the keys that
        are known hold on until they expire."""
        while True:
            await asyncio.sleep(min(interval, LONGEST_INTERVAL))
            try:
                token = await asyncio.to_thread(self._source.token)
                if token != self._token:
                    self._take(await asyncio.to_thread(self._source.keys))
                    self._token = token
                self._down = False
            except Exception as error:  # noqa: BLE001 - whatever a source raises, the next look at it may succeed
                if not self._down:
                    reason = error.message if isinstance(error, KeelwayError) else type(error).__name__
                    log.warning("the API keys cannot be read; those that are known hold on: %s", reason)
                self._down = True

    async def note_forever(self, take: Callable[[], Mapping[str, float]]) -> None:
        """Write down which keys were used, as ``take`` says, until cancelled."""
        while True:
            await asyncio.sleep(NOTE_INTERVAL)
            await self.note(take())

    async def note(self, used: Mapping[str, float]) -> None:
        """Write down when keys were used. One that cannot be written down is not worth a failure."""
        if used:
            try:
                await asyncio.to_thread(self._source.note_used, used)
            except KeelwayError as error:
                log.warning("the last use of API keys cannot be written down: %s", error.message)

    def _take(self, keys: Sequence[StoredKey]) -> None:
        if keys == self.keys:
            return
        before, after = {key.id: key for key in self.keys}, {key.id: key for key in keys}
        self.keys = keys
        self._publish(keys)
        now = self._clock.now()
        for changed, action in (
            (after.keys() - before.keys(), "key_added"),
            (before.keys() - after.keys(), "key_gone"),
        ):
            for public in sorted(changed):
                key = after.get(public) or before[public]
                self._audit(AuditEvent(now, action, "done", target=f"{key.name} {public}"))
        log.info("%d API keys hold", len(keys))
