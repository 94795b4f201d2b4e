"""API keys in the registry: their rows and their history. It never sees a key, only what is stored of it.

``keelway.registry.store.Registry.keys`` is one; servers read what holds, the command line changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from keelway.clock import Clock
from keelway.contract.names import check_name
from keelway.errors import AlreadyExists, InvalidInput, NotFound
from keelway.registry.database import reading, writing
from keelway.registry.evidence import KeyEvidence, RevokeEvidence, digest
from keelway.registry.history import Change, check_text, lock, to_microseconds, to_seconds
from keelway.registry.models import Action, ApiKey
from keelway.registry.schema import api_keys

if TYPE_CHECKING:
    from keelway.types import StoredKey  # brings NumPy along, which most of what the registry is asked does without


class ApiKeys:
    """Raises as ``Registry`` does."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def list(self) -> tuple[ApiKey, ...]:
        """All keys that there ever were, by name, the newest of a name first."""
        query = sa.select(api_keys).order_by(api_keys.c.name, api_keys.c.created_at.desc(), api_keys.c.id)
        with reading(self._engine) as connection:
            return tuple(map(_key, connection.execute(query).mappings()))

    def holding(self) -> tuple[StoredKey, ...]:
        """What servers let in by: neither revoked nor expired."""
        from keelway.types import StoredKey

        with reading(self._engine) as connection:
            rows = connection.execute(_holding(to_microseconds(self._clock.now()))).mappings()
            return tuple(
                StoredKey(
                    row["id"],
                    row["name"],
                    row["digest"],
                    tuple(row["scopes"]),
                    row["tenant"],
                    _seconds(row["expires_at"]),
                )
                for row in rows
            )

    def create(self, key: StoredKey, *, who: str, why: str) -> ApiKey:
        """Enter a new key. ``AlreadyExists`` if one of that name holds."""
        check_name(key.name)
        with self._change(who, why) as (connection, change):
            if connection.execute(_holding(change.at).where(api_keys.c.name == key.name)).first():
                raise AlreadyExists(
                    "a key of that name holds", field="name", hint=f"keelway keys rotate {key.name}, or revoke it first"
                )
            return _enter(connection, change, key, "key_create")

    def rotate(self, name: str, new: StoredKey, overlap: float, *, who: str, why: str) -> ApiKey:
        """Enter ``new`` with the name, scopes and tenant of the key that holds, which ends ``overlap`` seconds from
        now. If nothing is said of its end, it holds for as long as that one was to. ``NotFound`` if none holds."""
        from keelway.types import StoredKey

        with self._change(who, why) as (connection, change):
            rows = connection.execute(_holding(change.at).where(api_keys.c.name == name)).mappings().all()
            if not rows:
                raise _no_key(name)
            newest = max(rows, key=lambda row: row["created_at"])
            ends = change.at + to_microseconds(overlap)
            ended = {row["id"]: ends if row["expires_at"] is None else min(ends, row["expires_at"]) for row in rows}
            for public, moment in ended.items():
                connection.execute(api_keys.update().where(api_keys.c.id == public).values(expires_at=moment))
            expires_at = new.expires_at
            if expires_at is None and newest["expires_at"] is not None:
                expires_at = to_seconds(change.at + newest["expires_at"] - newest["created_at"])
            entered = StoredKey(
                new.id, newest["name"], new.digest, tuple(newest["scopes"]), newest["tenant"], expires_at
            )
            return _enter(connection, change, entered, "key_rotate", ended)

    def revoke(self, name: str, *, who: str, why: str) -> tuple[str, ...]:
        """Let nobody in any more by the keys of ``name``; the public parts of those that did hold. ``NotFound`` if none
        did."""
        with self._change(who, why) as (connection, change):
            rows = connection.execute(_holding(change.at).where(api_keys.c.name == name)).mappings().all()
            if not rows:
                raise _no_key(name)
            ids = tuple(row["id"] for row in rows)
            connection.execute(api_keys.update().where(api_keys.c.id.in_(ids)).values(revoked_at=change.at))
            change.record(connection, "key_revoke", evidence=RevokeEvidence(key=name, ids=ids).said())
            return ids

    def note_used(self, used: Mapping[str, float]) -> None:
        """Write down when keys were used last, in seconds since the Unix epoch. No change that servers hear of."""
        with writing(self._engine) as connection:
            for public, at in used.items():
                moment = to_microseconds(at)
                connection.execute(
                    api_keys.update()
                    .where(api_keys.c.id == public)
                    .where(sa.or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < moment))
                    .values(last_used_at=moment)
                )

    @contextmanager
    def _change(self, who: str, why: str) -> Iterator[tuple[sa.Connection, Change]]:
        check_text(who, "who")
        check_text(why, "why")
        with writing(self._engine) as connection:
            lock(connection)
            yield connection, Change("", who, why, to_microseconds(self._clock.now()))


def _holding(now: int) -> sa.Select[Any]:
    alive = sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
    return sa.select(api_keys).where(api_keys.c.revoked_at.is_(None), alive).order_by(api_keys.c.id)


def _enter(
    connection: sa.Connection, change: Change, key: StoredKey, action: Action, ended: dict[str, int] | None = None
) -> ApiKey:
    expires_at = None if key.expires_at is None else to_microseconds(key.expires_at)
    if expires_at is not None and expires_at <= change.at:
        raise InvalidInput("the key would have expired already", field="expires")
    connection.execute(
        api_keys.insert().values(
            id=key.id,
            name=key.name,
            digest=key.digest,
            scopes=[*key.scopes],
            tenant=key.tenant,
            created_at=change.at,
            created_by=change.who,
            expires_at=expires_at,
        )
    )
    evidence = KeyEvidence(
        key=key.name,
        id=key.id,
        scopes=[*key.scopes],
        tenant=key.tenant,
        expires_at=expires_at,
        hash=digest(key.digest),
        ends=msgspec.UNSET if ended is None else ended,
    )
    change.record(connection, action, evidence=evidence.said())
    row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key.id)).mappings().one()
    return _key(row)


def _key(row: sa.RowMapping) -> ApiKey:
    return ApiKey(
        row["id"],
        row["name"],
        tuple(row["scopes"]),
        row["tenant"],
        to_seconds(row["created_at"]),
        row["created_by"],
        _seconds(row["expires_at"]),
        _seconds(row["revoked_at"]),
        _seconds(row["last_used_at"]),
    )


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else to_seconds(microseconds)


def _no_key(name: str) -> NotFound:
    return NotFound("no key of that name holds", field="name", hint="keelway keys list")
