"""What is registered, and where the aliases point: ``keelway models``.

Importing SQLAlchemy takes longer than listing ten thousand versions, so the statements need none: of a database in a
file they are also asked by Python's own driver.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from keelway.contract.semver import Version
from keelway.registry.migrations import HEAD

#: How long a look at the file waits for another's lock; as in ``database.py``, which brings SQLAlchemy along.
_WAIT_SECONDS: Final = 5.0


class ModelListing(msgspec.Struct, frozen=True):
    """A model with all its versions, archived ones too, and where its aliases point.

    ``versions`` are their digests by their numbers, the highest by SemVer precedence first.
    """

    name: str
    versions: dict[str, str]
    aliases: dict[str, str]


def listing(execute: Callable[[str], Iterable[Any]]) -> tuple[ModelListing, ...]:
    """Every model, by name. ``execute`` answers a statement with rows, all within one transaction."""
    versions: dict[str, dict[str, str]] = defaultdict(dict)
    for model, version, digest in execute("SELECT model, version, model_digest FROM versions"):
        versions[model][version] = digest
    aliases: dict[str, dict[str, str]] = defaultdict(dict)
    for model, alias, version in execute("SELECT model, alias, version FROM aliases ORDER BY alias"):
        aliases[model][alias] = version
    return tuple(
        ModelListing(name, _highest_first(versions[name]), aliases[name])
        for name in sorted(name for (name,) in execute("SELECT name FROM models"))
    )


def glance(file: Path) -> tuple[ModelListing, ...] | None:
    """As ``listing``, of the SQLite database ``file``. ``None`` where it takes a ``Registry`` to do or to say more: if
    there is none, if it is not at the newest migration, or if it does not answer."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", _WAIT_SECONDS, uri=True)) as connection:
            connection.execute("BEGIN")
            known = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            return listing(connection.execute) if known == [(HEAD,)] else None
    except sqlite3.Error:
        return None


def _highest_first(versions: dict[str, str]) -> dict[str, str]:
    numbers = sorted(versions, key=lambda number: Version.parse(number).precedence, reverse=True)
    return {number: versions[number] for number in numbers}
