"""Entering models, versions and policies, inside a change. ``Registry`` is the only caller."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from keelway.contract.names import fold
from keelway.contract.semver import Version
from keelway.errors import AlreadyExists
from keelway.registry import lookup
from keelway.registry.history import Change
from keelway.registry.models import ModelVersion, VersionSummary
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


def same_version(
    connection: sa.Connection, there: VersionSummary, chosen: Version, manifest_digest: str, free: Version
) -> ModelVersion:
    """What is there, if it is what was pushed. Versions that differ in build metadata only are one version."""
    if there.version != str(chosen) or there.model_digest != manifest_digest:
        raise AlreadyExists(
            "the version exists with other content",
            field="version",
            hint=f"push it as {free}, say, or as no version",
        )
    row = (versions.c.model == there.model) & (versions.c.version == there.version)
    connection.execute(versions.update().where(row, versions.c.collected_at.is_not(None)).values(collected_at=None))
    return lookup.get_version(connection, there.model, there.version)


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
    enter_policy(connection, change, version, msgspec.structs.replace(policy, revision=1))
    change.record(connection, "push", version=version, evidence={"model_digest": manifest_digest})


def enter_policy(connection: sa.Connection, change: Change, version: str, policy: Policy) -> None:
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
