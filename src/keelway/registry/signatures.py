"""Signatures of versions in the registry: their rows and their history. It verifies none: whoever loads a version does.

They are rows and no part of the artifact: what they bind, a name and a version, is the registry's, one artifact may be
several versions, and another key may sign a version later. ``Registry`` is the only caller.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from keelway.artifacts.signing import Signature
from keelway.registry.evidence import SignEvidence, digest
from keelway.registry.history import Change, to_seconds
from keelway.registry.models import VersionSignature
from keelway.registry.schema import signatures


def signatures_of(connection: sa.Connection, name: str, version: str) -> tuple[VersionSignature, ...]:
    """All of a version, the oldest first."""
    query = (
        sa.select(signatures.c.key_id, signatures.c.signature, signatures.c.created_at, signatures.c.created_by)
        .where(_of(name, version))
        .order_by(signatures.c.created_at, signatures.c.key_id)
    )
    return tuple(
        VersionSignature(key_id, stored_bytes(signature), to_seconds(at), by)
        for key_id, signature, at, by in connection.execute(query)
    )


def enter_signature(connection: sa.Connection, change: Change, version: str, signature: Signature) -> None:
    """In the place of the one that its key has made before, if there is one. The same again changes nothing."""
    its = _of(change.model, version) & (signatures.c.key_id == signature.key_id)
    there = connection.execute(sa.select(signatures.c.signature).where(its)).scalar()
    if there is not None and stored_bytes(there) == signature.signature:
        return
    connection.execute(signatures.delete().where(its))
    connection.execute(
        signatures.insert().values(
            model=change.model,
            version=version,
            key_id=signature.key_id,
            signature=signature.signature,
            created_at=change.at,
            created_by=change.who,
        )
    )
    evidence = SignEvidence(key_id=signature.key_id, signature=digest(signature.signature))
    change.record(connection, "sign", version=version, evidence=evidence.said())


def stored_bytes(stored: object) -> bytes:
    """What stands in the column. SQLite keeps whatever somebody has written there; anything but bytes is no signature,
    and must not keep other versions from being read."""
    return bytes(stored) if isinstance(stored, bytes | memoryview) else b""


def _of(name: str, version: str) -> sa.ColumnElement[Any]:
    return (signatures.c.model == name) & (signatures.c.version == version)
