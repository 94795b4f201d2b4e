"""The whole history looked at: is each entry as it was written, is none missing, and is what is declared what it tells?

Every function takes an open connection and changes nothing. ``Registry`` is the only caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa

from keelway.registry.chain import GENESIS, Finding, Link, check
from keelway.registry.history import token
from keelway.registry.schema import aliases, history, versions

_ROWS: Final = 1000


def walk(connection: sa.Connection, findings: list[Finding]) -> list[Link]:
    """Every link of the chain; ``findings`` gets what is wrong with it, and where tables say what no entry told."""
    told = _Told()
    links = check(told.listening(_entries(connection)), findings)
    if (counted := token(connection)) != len(links):
        findings.append(Finding(None, f"{counted} changes were counted and there are {len(links)} entries"))
    told.compare(connection, findings)
    return links


def last(connection: sa.Connection) -> tuple[int, Link]:
    """The number of entries, and the newest link; of an empty history, number 0 and the hash that the first begins
    with."""
    count = connection.execute(sa.select(sa.func.count()).select_from(history)).scalar_one()
    newest = sa.select(history.c.id, history.c.hash).order_by(history.c.id.desc()).limit(1)
    row = connection.execute(newest).first()
    return count, Link(row.id, row.hash) if row else Link(0, GENESIS)


def _entries(connection: sa.Connection) -> Iterator[Mapping[str, Any]]:
    query = sa.select(history).order_by(history.c.id)
    for row in connection.execution_options(yield_per=_ROWS).execute(query).mappings():
        yield dict(row)


class _Told:
    """What the entries tell of the present, each taking the place of those before it."""

    def __init__(self) -> None:
        self.aliases: dict[tuple[str, str], str] = {}
        self.versions: dict[tuple[str, str], tuple[str | None, str]] = {}

    def listening(self, entries: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for entry in entries:
            self._take(entry)
            yield entry

    def _take(self, entry: Mapping[str, Any]) -> None:
        action, model = entry["action"], entry["model"]
        if action == "alias":
            self.aliases.pop((model, entry["alias"]), None)
            if entry["to_version"] is not None:
                self.aliases[model, entry["alias"]] = entry["to_version"]
        elif action == "push":
            digest = (entry["evidence"] or {}).get("model_digest")
            _, state = self.versions.get((model, entry["version"]), (None, "available"))
            self.versions[model, entry["version"]] = (digest, state)
        elif action in ("archive", "restore"):
            digest, _ = self.versions.get((model, entry["version"]), (None, ""))
            state = "archived" if action == "archive" else "available"
            self.versions[model, entry["version"]] = (digest, state)

    def compare(self, connection: sa.Connection, findings: list[Finding]) -> None:
        pointing = {(model, alias): version for model, alias, version in connection.execute(sa.select(aliases))}
        query = sa.select(versions.c.model, versions.c.version, versions.c.model_digest, versions.c.state)
        there = {(model, version): (digest, state) for model, version, digest, state in connection.execute(query)}
        for model, alias in sorted(self.aliases.keys() | pointing.keys()):
            told, now = self.aliases.get((model, alias)), pointing.get((model, alias))
            if told != now:
                what = f"{alias} of {model} is {now or 'not there'}, and the history says {told or 'not there'}"
                findings.append(Finding(None, what))
        for model, version in sorted(self.versions.keys() | there.keys()):
            if self.versions.get((model, version)) != there.get((model, version)):
                findings.append(Finding(None, f"{model} {version} is not what the history says of it"))
