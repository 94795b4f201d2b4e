"""Everything that a server needs to tell its callers apart, together: who finds out, the keys that hold, the audit log.

``keelway.app`` starts it, runs its work in the background, and closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from keelway.clock import Clock
from keelway.config import Settings
from keelway.errors import InvalidInput, KeelwayError
from keelway.guard.addresses import counted
from keelway.guard.auth import Authenticator, Guarded, OpenToAll
from keelway.guard.scopes import forbidden
from keelway.hosting.keys import KeyFollower
from keelway.observe.audit import AuditLog
from keelway.observe.metrics import ServingMetrics
from keelway.ports import KeySource
from keelway.types import AuditEvent, Peer, Principal, StoredKey


class Callers:
    """``keys`` are followed, and handed to ``publish``, where callers prove themselves by API keys; one of several
    workers is told them. Raises ``KeelwayError`` if the settings do not fit together."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        metrics: ServingMetrics,
        keys: KeySource | None,
        publish: Callable[[Sequence[StoredKey]], None],
    ) -> None:
        self._interval = settings.registry.poll_interval
        self._clock = clock
        lost = metrics.counter("ml_audit_dropped_total")
        self._audit = AuditLog(settings.audit.file, clock, counted, lost.inc)
        self._guarded = _guarded(settings, clock, metrics, self._audit)
        self.authenticator: Authenticator = self._guarded or OpenToAll()
        self._keys: KeyFollower | None = None
        if keys is not None and settings.auth.keys:
            self._keys = KeyFollower(keys, publish, self._audit.note, clock)

    @property
    def methods(self) -> Sequence[str]:
        """By what callers may prove who they are; empty where nobody has to."""
        return self._guarded.methods if self._guarded else ()

    def denied(self, principal: Principal, peer: Peer, action: str, model: str) -> KeelwayError:
        """As ``forbidden``; it is written down."""
        self.authenticator.denied(principal, peer, action, model)
        return forbidden(principal, peer, action, model)

    async def start(self) -> None:
        """Read the keys. Raises ``Unavailable`` if the registry cannot be read."""
        if self._keys is not None:
            await self._keys.start()

    def work(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What goes on in the background, until cancelled."""
        if self._keys is not None:
            yield self._keys.follow(self._interval)
            yield self._keys.note_forever(self.take_used)
        tokens = self._guarded.tokens if self._guarded else None
        if tokens is not None and tokens.published is not None:
            yield tokens.published.follow()

    def renew_keys(self, keys: Sequence[StoredKey]) -> None:
        """From now on ``keys`` hold: those of a new snapshot."""
        if self._guarded is not None:
            self._guarded.renew_keys(keys)

    def take_used(self) -> Mapping[str, float]:
        """Which API keys were used since this was last asked, by their ids, and when."""
        return self._guarded.take_used() if self._guarded else {}

    def note_done(self, action: str, principal: Principal, peer: Peer, target: str) -> None:
        """Write down what somebody has done to a model."""
        self._audit.note(AuditEvent(self._clock.now(), action, "done", principal.name, peer.address, target))

    async def flush(self) -> None:
        """Write down what was noted, off the loop. Not to be cancelled: what it has taken would be lost."""
        events = self._audit.take()
        if events:
            await asyncio.to_thread(self._audit.write, events)

    async def close(self) -> None:
        """Nobody calls any more."""
        try:
            if self._keys is not None:
                await self._keys.note(self.take_used())
        finally:
            self._audit.close()


def check_callers(settings: Settings, clock: Clock) -> None:
    """Raises what ``Callers`` does, for whoever only starts those that have them."""
    _guarded(settings, clock, ServingMetrics(), AuditLog("", clock))


def _guarded(settings: Settings, clock: Clock, metrics: ServingMetrics, audit: AuditLog) -> Guarded | None:
    if not settings.demands_credentials:
        return None
    if settings.auth.mtls and not settings.tls.client_ca:
        raise InvalidInput(
            "auth.mtls needs tls.client_ca, which is not set: no client would be asked for its certificate",
            field="tls.client_ca",
            hint="set it to the PEM file of the authorities that sign the certificates of clients",
        )
    failures = metrics.counter("ml_auth_failures_total")
    return Guarded(settings.auth, settings.jwt, clock, lambda reason: failures.labels(reason).inc(), audit.note)
