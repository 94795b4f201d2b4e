"""The whole history looked at: is each entry as it was written, is none missing, and are the tables what it tells?

Every function takes an open connection and changes nothing. ``Registry`` is the only caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

from keelway.registry.chain import GENESIS, Finding, Link, check
from keelway.registry.history import token
from keelway.registry.schema import history
from keelway.registry.told import Told, as_text, from_json

_ROWS: Final = 1000


def walk(connection: sa.Connection, findings: list[Finding]) -> list[Link]:
    """Every link of the chain; ``findings`` gets what is wrong with it, and where tables say what no entry told."""
    told = Told()
    links = check(_entries(connection, told), findings)
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


def _entries(connection: sa.Connection, told: Told) -> Iterator[dict[str, Any]]:
    """All of them in order; what they tell is taken on the way."""
    query = sa.select(*map(as_text, history.c)).order_by(history.c.id).execution_options(yield_per=_ROWS)
    for row in connection.execute(query).mappings():
        entry = {**row, "evidence": from_json(row["evidence"])}
        told.take(entry)
        yield entry
