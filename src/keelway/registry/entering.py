"""Entering models, versions and policies, inside a change. ``Registry`` is the only caller."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from keelway.contract.names import fold
from keelway.contract.semver import Version
from keelway.errors import AlreadyExists
from keelway.registry.evidence import PolicyEvidence, digest, push_evidence
from keelway.registry.history import Change
from keelway.registry.models import VersionSummary
from keelway.registry.schema import models, policies, versions

if TYPE_CHECKING:
    from keelway.contract.constraints import Policy

FIRST_VERSION: Final = Version(1, 0, 0)


def enter_model(connection: sa.Connection, change: Change) -> None:
    """The model, if it is new. ``AlreadyExists`` for a name that differs from a known one in ``_`` and ``-`` only."""
    folded = fold(change.model)
    known = connection.execute(sa.select(models.c.name).where(models.c.folded == folded)).scalar()
    if known is None:
        connection.execute(
            models.insert().values(name=change.model, folded=folded, created_at=change.at, created_by=change.who)
        )
    elif known != change.model:
        raise AlreadyExists(
            "a model of nearly the same name exists",
            field="name",
            hint=f"names differ by more than _ and -: use {known}",
        )


def next_free(known: Collection[Version]) -> Version:
    """The next minor version after the highest of ``known``, or the first."""
    return max(known).bump("minor") if known else FIRST_VERSION


def check_same(there: VersionSummary, chosen: Version, manifest_digest: str, free: Version) -> None:
    """``AlreadyExists`` unless what is there is what was pushed. Versions that differ in build metadata only are one
    version."""
    if there.version != str(chosen) or there.model_digest != manifest_digest:
        raise AlreadyExists(
            "the version exists with other content",
            field="version",
            hint=f"push it as {free}, say, or as no version",
        )


def enter_again(
    connection: sa.Connection, change: Change, version: str, manifest_digest: str, details: Mapping[str, Any]
) -> None:
    """A version whose files were removed (``collection.py``) has them again: what is said beside them is that of this
    push, whose files are there, and not of the first. Its number was computed by the first. Otherwise nothing is
    changed."""
    row = (versions.c.model == change.model) & (versions.c.version == version) & versions.c.collected_at.is_not(None)
    before = connection.execute(sa.select(versions.c.metadata).where(row)).scalar()
    if before is None:
        return
    computed = {"bump": before["bump"]} if "bump" in before else {}
    said = {**details, "metadata": {**computed, **details["metadata"]}}
    connection.execute(versions.update().where(row).values(collected_at=None, **said))
    change.record(connection, "push", version=version, evidence=push_evidence(manifest_digest, said))


def enter_version(
    connection: sa.Connection,
    change: Change,
    version: str,
    manifest_digest: str,
    details: Mapping[str, Any],
    policy: Policy,
) -> None:
    connection.execute(
        versions.insert().values(
            model=change.model,
            version=version,
            model_digest=manifest_digest,
            created_at=change.at,
            created_by=change.who,
            state="available",
            **details,
        )
    )
    first = msgspec.structs.replace(policy, revision=1)
    _insert_policy(connection, change, version, first)
    change.record(connection, "push", version=version, evidence=push_evidence(manifest_digest, details, first))


def enter_policy(connection: sa.Connection, change: Change, version: str, policy: Policy) -> None:
    """A later revision; the first is entered with its version."""
    _insert_policy(connection, change, version, policy)
    evidence = PolicyEvidence(revision=policy.revision, policy=digest(policy))
    change.record(connection, "policy", version=version, evidence=evidence.said())


def _insert_policy(connection: sa.Connection, change: Change, version: str, policy: Policy) -> None:
    connection.execute(
        policies.insert().values(
            model=change.model,
            version=version,
            revision=policy.revision,
            policy=policy,
            created_at=change.at,
            created_by=change.who,
            why=change.why,
        )
    )
