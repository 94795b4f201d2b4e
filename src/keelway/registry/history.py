"""The append-only record of changes, and the token that tells servers that there is something new.

Every change of the registry goes through ``Change``: none without its entry, none that a polling server could miss.
``Registry`` is the only caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from keelway.errors import InvalidInput
from keelway.registry.chain import GENESIS, entry_hash
from keelway.registry.models import Action, HistoryEntry
from keelway.registry.schema import history, registry_state

MAX_TEXT: Final = 2000

_ENTRY: Final = tuple(history.c[name] for name in HistoryEntry.__struct_fields__)
_MICROSECONDS: Final = 1_000_000


def to_microseconds(seconds: float) -> int:
    """Seconds since the Unix epoch as the integer the tables hold."""
    return round(seconds * _MICROSECONDS)


def to_seconds(microseconds: int) -> float:
    """The inverse of ``to_microseconds``, exact to the microsecond for centuries."""
    return microseconds / _MICROSECONDS


class Change(msgspec.Struct, frozen=True):
    """Who changes one model, when (in microseconds) and why: what the entries of one transaction share."""

    model: str
    who: str
    why: str
    at: int

    def record(
        self,
        connection: sa.Connection,
        action: Action,
        *,
        version: str | None = None,
        alias: str | None = None,
        from_version: str | None = None,
        to_version: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        """Append an entry and move the token, in the transaction of the change itself, which holds the lock."""
        last = connection.execute(
            sa.select(history.c.id, history.c.hash).order_by(history.c.id.desc()).limit(1)
        ).first()
        number, previous = (last.id, last.hash) if last else (0, GENESIS)
        entry = {
            "id": number + 1,
            "at": self.at,
            "who": self.who,
            "action": action,
            "model": self.model,
            "version": version,
            "alias": alias,
            "from_version": from_version,
            "to_version": to_version,
            "why": self.why,
            "evidence": evidence,
        }
        connection.execute(history.insert().values(**entry, previous=previous, hash=entry_hash(previous, entry)))
        connection.execute(registry_state.update().values(token=registry_state.c.token + 1))


def check_text(text: str, field: str) -> str:
    """``text`` itself if it can stand as who or why, else ``InvalidInput``. PostgreSQL cannot store a NUL."""
    if not text.strip() and field == "who":
        raise InvalidInput("a change needs a name of who makes it", field=field)
    if len(text) > MAX_TEXT or "\0" in text:
        raise InvalidInput(f"the text has more than {MAX_TEXT} characters, or a NUL", field=field)
    return text


def lock(connection: sa.Connection) -> None:
    """Wait for the changes of others to end. SQLite's transaction holds that lock already and ignores the clause."""
    connection.execute(sa.select(registry_state.c.token).with_for_update())


def token(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(registry_state.c.token)).scalar_one())


def before(connection: sa.Connection, model: str, alias: str) -> str | None:
    """Where ``alias`` would be had its last move not been made; ``None`` if it was nowhere.

    A move back is taken for what it is: after it, the version before is the one before that, never the version that
    was just left.
    """
    query = sa.select(history.c.to_version, history.c.evidence).order_by(history.c.id)
    moves = query.where(history.c.model == model, history.c.alias == alias, history.c.action == "alias")
    places: list[str | None] = [None]
    for version, evidence in connection.execute(moves):
        if isinstance(evidence, dict) and evidence.get("rollback"):
            del places[-1:]
        else:
            places.append(version)
    return places[-2] if len(places) > 1 else None


def newest(connection: sa.Connection, model: str | None, limit: int) -> tuple[HistoryEntry, ...]:
    """Up to ``limit`` entries, newest first; of one model, or of all."""
    query = sa.select(*_ENTRY).order_by(history.c.id.desc()).limit(limit)
    if model is not None:
        query = query.where(history.c.model == model)
    rows = connection.execute(query).mappings()
    return tuple(HistoryEntry(**{**row, "at": to_seconds(row["at"])}) for row in rows)
