"""The results of checks: rows beside the versions they are about, newest last. ``Registry`` is the only caller.

The history says all that a row holds, of its document the digest, so that whoever compares them finds a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from keelway.registry.evidence import CheckEvidence, digest
from keelway.registry.history import Change, to_seconds
from keelway.registry.models import CheckRecord, ModelVersion
from keelway.registry.schema import checks


def enter_check(
    connection: sa.Connection,
    change: Change,
    target: ModelVersion,
    *,
    passed: bool,
    against: str | None,
    document: Mapping[str, Any],
) -> CheckRecord:
    """Keep what was found of ``target``, in the transaction of its history entry."""
    made = connection.execute(
        checks.insert().values(
            model=change.model,
            version=target.version,
            model_digest=target.model_digest,
            at=change.at,
            who=change.who,
            passed=passed,
            against=against,
            document=dict(document),
        )
    )
    (number,) = made.inserted_primary_key or (0,)
    evidence = CheckEvidence(
        check=number,
        passed=passed,
        model_digest=target.model_digest,
        against=against,
        document=digest(document),
    )
    change.record(connection, "check", version=target.version, evidence=evidence.said())
    return _record(connection.execute(sa.select(checks).where(checks.c.id == number)).one())


def newest_check(connection: sa.Connection, target: ModelVersion) -> CheckRecord | None:
    """The last check of ``target`` with the digest it has."""
    query = (
        sa.select(checks)
        .where(
            checks.c.model == target.model,
            checks.c.version == target.version,
            checks.c.model_digest == target.model_digest,
        )
        .order_by(checks.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else _record(row)


def _record(row: sa.Row[Any]) -> CheckRecord:
    return CheckRecord(**{**row._mapping, "at": to_seconds(row.at)})
