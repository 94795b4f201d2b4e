"""Reading the registry: from a name, a version, a range or an alias to rows, and good words when there is none.

Every function takes an open connection and changes nothing. ``Registry`` is the only caller. What brings NumPy along is
imported where rows with a policy or a baseline are made: listings take longer to start than to run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from keelway.contract.names import check_alias, check_name
from keelway.contract.semver import Range, Version, is_range
from keelway.errors import FailedPrecondition, NotFound
from keelway.registry.history import to_seconds
from keelway.registry.models import CHAMPION, ModelVersion, VersionSummary
from keelway.registry.schema import aliases, models, policies, versions

if TYPE_CHECKING:
    from keelway.contract.constraints import Policy

_SUMMARY: Final = tuple(versions.c[name] for name in VersionSummary.__struct_fields__)
_FULL: Final = tuple(versions.c[name] for name in ModelVersion.__struct_fields__)


def precedence(version: VersionSummary) -> Version:
    return Version.parse(version.version)


def highest_first(rows: Iterable[VersionSummary]) -> list[VersionSummary]:
    """By SemVer precedence."""
    return sorted(rows, key=lambda row: precedence(row).precedence, reverse=True)


def summaries(connection: sa.Connection, name: str) -> list[VersionSummary]:
    """Every version of a model, in no order; empty if there is no such model."""
    query = sa.select(*_SUMMARY).where(versions.c.model == name)
    return [
        VersionSummary(model, version, digest, to_seconds(created_at), created_by, state)
        for model, version, digest, created_at, created_by, state in connection.execute(query)
    ]


def get_version(connection: sa.Connection, name: str, version: str) -> ModelVersion:
    """One version, archived or not. Raises ``NotFound``, with close matches, or ``InvalidInput``."""
    exact = str(Version.parse(version))
    query = sa.select(*_FULL).where(versions.c.model == check_name(name), versions.c.version == exact)
    row = connection.execute(query).first()
    if row is None:
        raise _no_version(connection, name, exact)
    return _model_version(row)


def is_collected(connection: sa.Connection, version: VersionSummary) -> bool:
    """Whether the files of an archived version were removed."""
    row = (versions.c.model == version.model) & (versions.c.version == version.version)
    return connection.execute(sa.select(versions.c.collected_at).where(row)).scalar() is not None


def get_alias(connection: sa.Connection, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to, or ``None`` if the model or the alias is unknown."""
    query = (
        sa.select(*_FULL)
        .join(aliases, (aliases.c.model == versions.c.model) & (aliases.c.version == versions.c.version))
        .where(aliases.c.model == name, aliases.c.alias == alias)
    )
    row = connection.execute(query).first()
    return None if row is None else _model_version(row)


def resolve(connection: sa.Connection, name: str, selector: str | None) -> ModelVersion:
    """See ``Registry.resolve``."""
    check_name(name)
    if selector is None:
        return get_alias(connection, name, CHAMPION) or _highest_release(connection, name)
    if is_range(selector):
        return _highest_in(connection, name, Range.parse(selector))
    # No alias has a dot and every version has.
    if "." in selector:
        found = get_version(connection, name, selector)
        if found.state == "archived":
            raise FailedPrecondition("the version is archived", field="version", hint="restore it, or name another")
        return found
    pointed = get_alias(connection, name, check_alias(selector))
    if pointed is None:
        raise no_alias(connection, name, selector)
    return pointed


def require_model(connection: sa.Connection, name: str) -> None:
    """Raise ``NotFound`` with close matches unless there is a model of that very name."""
    known = connection.execute(sa.select(models.c.name).where(models.c.name == check_name(name))).first()
    if known is None:
        names = connection.execute(sa.select(models.c.name)).scalars()
        raise NotFound("no such model", field="model", hint=_suggestion(name, names, "push one with: keelway push"))


def get_policy(connection: sa.Connection, version: ModelVersion) -> Policy:
    """The newest policy of a version; every version has one."""
    from keelway.contract.constraints import Policy

    query = (
        sa.select(policies.c.policy)
        .where(policies.c.model == version.model, policies.c.version == version.version)
        .order_by(policies.c.revision.desc())
        .limit(1)
    )
    return msgspec.convert(connection.execute(query).scalar_one(), Policy)


def undeclared() -> Policy:
    """The policy of a version that nothing is declared for."""
    from keelway.contract.constraints import Policy

    return Policy()


def no_alias(connection: sa.Connection, name: str, alias: str) -> NotFound:
    """The error for an alias that is not there, or ``NotFound`` raised for its model."""
    require_model(connection, name)
    known = connection.execute(sa.select(aliases.c.alias).where(aliases.c.model == name)).scalars()
    return NotFound(
        "the model has no such alias",
        field="alias",
        hint=_suggestion(alias, known, "set one with: keelway promote NAME@VERSION --alias"),
    )


def _highest_release(connection: sa.Connection, name: str) -> ModelVersion:
    releases = [
        version
        for version in summaries(connection, name)
        if version.state == "available" and not precedence(version).prerelease
    ]
    if not releases:
        require_model(connection, name)
        raise NotFound("the model has no champion and no release", field="version", hint="name a version or an alias")
    return get_version(connection, name, max(releases, key=precedence).version)


def _highest_in(connection: sa.Connection, name: str, wanted: Range) -> ModelVersion:
    known = {precedence(row): row.version for row in summaries(connection, name) if row.state == "available"}
    highest = wanted.highest(known)
    if highest is None:
        require_model(connection, name)
        there = ", ".join(known[version] for version in sorted(known, reverse=True)[:5])
        raise NotFound("no version is in the range", field="version", hint=f"there is {there}" if there else None)
    return get_version(connection, name, known[highest])


def _no_version(connection: sa.Connection, name: str, version: str) -> NotFound:
    require_model(connection, name)
    known = highest_first(summaries(connection, name))
    hint = _suggestion(version, [row.version for row in known], "")
    return NotFound("the model has no such version", field="version", hint=hint)


def _suggestion(wanted: str, known: Iterable[str], otherwise: str) -> str:
    """A hint that names what is near to ``wanted``, or the first of what there is."""
    there = list(known)
    close = difflib.get_close_matches(wanted, there, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there is {', '.join(there[:5])}" if there else otherwise


def _model_version(row: sa.Row[*tuple[Any, ...]]) -> ModelVersion:
    from keelway.contract.anomaly import Detector
    from keelway.contract.baseline import Baseline

    model, version, digest, created_at, created_by, state, report, baseline, metadata, detector = row
    return ModelVersion(
        model,
        version,
        digest,
        to_seconds(created_at),
        created_by,
        state,
        report,
        None if baseline is None else msgspec.convert(baseline, Baseline),
        metadata,
        None if detector is None else msgspec.convert(detector, Detector),
    )
