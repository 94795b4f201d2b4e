"""The registry: declared state in SQLite or PostgreSQL. What should be live is a row here; servers converge on it.

Every change is one transaction with its history entry, and changes come one after the other, so concurrent pushes and
promotions are safe from any number of processes. It stores no model file and loads none. The command line, hosting
and rollouts call it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from keelway.artifacts.signing import Signature, TrustedKeys
from keelway.clock import Clock, rfc3339
from keelway.contract.names import check_alias, check_name
from keelway.contract.semver import Version
from keelway.errors import FailedPrecondition, InvalidInput
from keelway.registry import lookup
from keelway.registry.anchors import Anchor, Head, compare
from keelway.registry.audit import last, walk
from keelway.registry.chain import GENESIS, Finding
from keelway.registry.checks import enter_check, newest_check
from keelway.registry.collection import Collection
from keelway.registry.database import connect, reading, writing
from keelway.registry.entering import check_same, enter_again, enter_model, enter_policy, enter_version, next_free
from keelway.registry.history import Change, before, check_text, lock, newest, to_microseconds, to_seconds, token
from keelway.registry.keys import ApiKeys
from keelway.registry.listing import ModelListing, listing
from keelway.registry.migration import bring_to_head
from keelway.registry.models import (
    CHAMPION,
    Alias,
    Audit,
    CheckRecord,
    HistoryEntry,
    ModelVersion,
    RegisteredModel,
    State,
    VersionSignature,
    VersionSummary,
)
from keelway.registry.schema import aliases, models, versions
from keelway.registry.signatures import enter_signature, signatures_of
from keelway.registry.standing import Standing, check_unchanged, standing

if TYPE_CHECKING:
    from keelway.contract.anomaly import Detector
    from keelway.contract.baseline import Baseline
    from keelway.contract.constraints import Policy

#: Signs a version: its name, its number and its digest.
Signing = Callable[[str, str, str], Signature]
#: Decides on a move of an alias by the newest check and policy of its target: raises, or answers the evidence.
Deciding = Callable[[CheckRecord | None, "Policy"], Mapping[str, Any]]

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class Registry:
    """One registry, through one pool of connections. Safe to share between threads; open it after a fork, not before.

    Every method raises ``Unavailable`` if the database is locked or out of reach, ``InvalidInput`` for a name, version
    or alias that cannot be one, and ``NotFound``, with what is close in the hint, for one that is not there. ``who``
    and ``why`` stand in the history for good.
    """

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self.keys = ApiKeys(engine, clock)
        self.collection = Collection(engine, clock)

    @classmethod
    def open(cls, url: str, *, clock: Clock) -> Registry:
        """The registry at ``url`` (``sqlite:///path`` or ``postgresql+psycopg://…``), made or migrated if need be.

        Raises ``FailedPrecondition`` if the database holds something else or is of a newer keelway.
        """
        engine = connect(url)
        try:
            bring_to_head(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, clock)

    def close(self) -> None:
        """Close the pool's connections."""
        self._engine.dispose()

    # Reading

    def models(self) -> tuple[RegisteredModel, ...]:
        """All models, by name."""
        query = sa.select(models.c.name, models.c.created_at, models.c.created_by).order_by(models.c.name)
        with reading(self._engine) as connection:
            rows = connection.execute(query)
            return tuple(RegisteredModel(name, to_seconds(at), by) for name, at, by in rows)

    def listing(self) -> tuple[ModelListing, ...]:
        """All models by name, with all their versions and aliases, in as many queries for one as for ten thousand."""
        with reading(self._engine) as connection:
            return listing(connection.exec_driver_sql)

    def versions(self, name: str) -> tuple[VersionSummary, ...]:
        """All versions of a model, archived ones too, the highest by SemVer precedence first."""
        with reading(self._engine) as connection:
            lookup.require_model(connection, name)
            return tuple(lookup.highest_first(lookup.summaries(connection, name)))

    def get(self, name: str, version: str) -> ModelVersion:
        """Exactly that version, archived or not."""
        with reading(self._engine) as connection:
            return lookup.get_version(connection, name, version)

    def resolve(self, name: str, selector: str | None = None) -> ModelVersion:
        """The version meant by a version, an alias, a range (the highest in it that is not archived), or nothing: the
        champion, else the highest that is no pre-release.

        An archived version is ``FailedPrecondition``.
        """
        with reading(self._engine) as connection:
            return lookup.resolve(connection, name, selector)

    def standing(self, name: str) -> Standing:
        """What a new version of the model is compared with; nothing if there is no such model."""
        with reading(self._engine) as connection:
            return standing(connection, check_name(name))

    def aliases(self, name: str) -> tuple[Alias, ...]:
        """The aliases of a model, by name."""
        query = sa.select(aliases).where(aliases.c.model == name).order_by(aliases.c.alias)
        with reading(self._engine) as connection:
            lookup.require_model(connection, name)
            return tuple(Alias(*row) for row in connection.execute(query))

    def policy(self, name: str, version: str) -> Policy:
        """The policy of a version in its newest revision."""
        with reading(self._engine) as connection:
            return lookup.get_policy(connection, lookup.get_version(connection, name, version))

    def signatures(self, name: str, version: str) -> tuple[VersionSignature, ...]:
        """The signatures of a version, unverified, the oldest first."""
        with reading(self._engine) as connection:
            return signatures_of(connection, name, lookup.get_version(connection, name, version).version)

    def history(self, name: str | None = None, limit: int = 100) -> tuple[HistoryEntry, ...]:
        """The newest ``limit`` changes of a model, or of all models, newest first."""
        with reading(self._engine) as connection:
            if name is not None:
                lookup.require_model(connection, name)
            return newest(connection, name, limit)

    def last_check(self, name: str, version: str) -> CheckRecord | None:
        """What the newest check of that very version has found; ``None`` if it was never checked."""
        with reading(self._engine) as connection:
            return newest_check(connection, lookup.get_version(connection, name, version))

    def state_token(self) -> int:
        """A number that differs whenever anything was changed in between. One cheap query: servers poll it."""
        with reading(self._engine) as connection:
            return token(connection)

    def head(self) -> Head:
        """The end of the history, to be signed and kept elsewhere."""
        with reading(self._engine) as connection:
            entries, link = last(connection)
        return Head(entries, link.id, link.hash, rfc3339(self._clock.now()))

    def audit(self, anchors: Sequence[Anchor] = (), trusted: TrustedKeys | None = None) -> Audit:
        """Look at the whole history, of all models: its chain, whether it tells of what is there, and whether it is
        the one of ``anchors``, whose signatures are those of ``trusted`` keys."""
        findings: list[Finding] = []
        with reading(self._engine) as connection:
            links = walk(connection, findings)
        if anchors:
            compare(anchors, links, trusted or TrustedKeys({}), findings)
        return Audit(len(links), links[-1].hash if links else GENESIS, tuple(findings))

    # Changing

    def push(
        self,
        name: str,
        version: str | None,
        manifest_digest: str,
        *,
        report: Mapping[str, Any] | None = None,
        baseline: Baseline | None = None,
        detector: Detector | None = None,
        policy: Policy | None = None,
        metadata: Mapping[str, Any] | None = None,
        stored: Callable[[], None] = lambda: None,
        sign: Signing | None = None,
        decided_on: Standing | None = None,
        who: str,
        why: str,
    ) -> ModelVersion:
        """Enter a version whose manifest and files are stored already; the model too, if it is new. ``stored`` raises
        if they are not there any more; nobody removes files while it looks.

        ``version`` ``None`` is 1.0.0 for the first and otherwise the next minor after the highest. The same version
        with the same digest again changes nothing, unless its files had been removed, and answers what is there; with
        another digest it is ``AlreadyExists``, as is a name that differs from a known one in ``_`` and ``-`` only. The
        first version of a model becomes its champion. ``report`` and ``metadata`` are JSON objects. What ``sign`` makes
        of the name, the version and the digest is entered with it, so that nobody ever sees it without. ``Overtaken``
        if the model does not stand any more as it did when the version was ``decided_on``.
        """
        wanted = None if version is None else Version.parse(version)
        if not _DIGEST.fullmatch(manifest_digest):
            raise InvalidInput(
                "the manifest digest is not one", field="manifest_digest", hint="sha256: and 64 hex digits"
            )
        with self._change(check_name(name), who, why) as (connection, change):
            stored()
            if decided_on is not None:
                check_unchanged(connection, name, decided_on)
            enter_model(connection, change)
            known = {Version.parse(row.version): row for row in lookup.summaries(connection, name)}
            chosen = wanted or next_free(known)
            details = {
                "report": dict(report or {}),
                "baseline": baseline,
                "detector": detector,
                "metadata": dict(metadata or {}),
            }
            if chosen in known:
                check_same(known[chosen], chosen, manifest_digest, next_free(known))
                enter_again(connection, change, str(chosen), manifest_digest, details)
                _sign(connection, change, str(chosen), manifest_digest, sign)
                return lookup.get_version(connection, name, str(chosen))
            enter_version(connection, change, str(chosen), manifest_digest, details, policy or lookup.undeclared())
            _sign(connection, change, str(chosen), manifest_digest, sign)
            if not known:
                _point(connection, change, CHAMPION, None, str(chosen), None)
            return lookup.get_version(connection, name, str(chosen))

    def sign(self, name: str, version: str, sign: Signing, *, who: str, why: str) -> ModelVersion:
        """Enter what ``sign`` makes of the name, the version and the digest that is registered for it, in the place of
        the signature that the same key has made before."""
        with self._change(check_name(name), who, why) as (connection, change):
            target = lookup.get_version(connection, name, version)
            _sign(connection, change, target.version, target.model_digest, sign)
            return target

    def set_alias(
        self,
        name: str,
        alias: str,
        version: str,
        *,
        who: str,
        why: str,
        expected_from: str | msgspec.UnsetType | None = msgspec.UNSET,
        decide: Deciding | None = None,
    ) -> Alias:
        """Point ``alias`` to ``version``. Where it points already, nothing changes and nothing is recorded.

        With ``expected_from`` (``None``: the alias must not exist) it moves only if it is still there, else
        ``FailedPrecondition``: of two promotions decided on the same state, one wins. An archived version is
        ``FailedPrecondition`` too. ``decide`` is asked while nothing else can change, and only if the alias moves.
        """
        check_alias(alias)
        with self._change(check_name(name), who, why) as (connection, change):
            target = lookup.get_version(connection, name, version)
            if target.state == "archived":
                raise FailedPrecondition("the version is archived", field="version", hint="restore it, or name another")
            current = _expect(connection, name, alias, expected_from)
            if current != target.version:
                policy = lookup.get_policy(connection, target)
                evidence = decide(newest_check(connection, target), policy) if decide else None
                _point(connection, change, alias, current, target.version, evidence or None)
        return Alias(name, alias, target.version)

    def rollback(
        self,
        name: str,
        alias: str = CHAMPION,
        *,
        who: str,
        why: str,
        expected_from: str | msgspec.UnsetType = msgspec.UNSET,
    ) -> Alias:
        """Move ``alias`` back to where it was before its last move; twice, and it is where it was two moves ago.

        ``FailedPrecondition`` if it was nowhere before, or that version is archived. ``expected_from`` is as in
        ``set_alias``.
        """
        check_alias(alias)
        with self._change(check_name(name), who, why) as (connection, change):
            current = _expect(connection, name, alias, expected_from)
            if current is None:
                raise lookup.no_alias(connection, name, alias)
            earlier = before(connection, name, alias)
            if earlier is None:
                raise FailedPrecondition("the alias was nowhere before", field="alias", hint="name a version: promote")
            target = lookup.get_version(connection, name, earlier)
            if target.state == "archived":
                hint = f"keelway restore {name}@{earlier}, or promote another"
                raise FailedPrecondition("the version before is archived", field="alias", hint=hint)
            _point(connection, change, alias, current, earlier, {"rollback": True})
        return Alias(name, alias, earlier)

    def remove_alias(
        self,
        name: str,
        alias: str,
        *,
        who: str,
        why: str,
        expected_from: str | msgspec.UnsetType = msgspec.UNSET,
    ) -> None:
        """Remove ``alias``; ``NotFound`` if there is none. ``expected_from`` is as in ``set_alias``."""
        check_alias(alias)
        with self._change(check_name(name), who, why) as (connection, change):
            current = _expect(connection, name, alias, expected_from)
            if current is None:
                raise lookup.no_alias(connection, name, alias)
            connection.execute(aliases.delete().where(aliases.c.model == name, aliases.c.alias == alias))
            change.record(connection, "alias", alias=alias, from_version=current)

    def set_policy(
        self, name: str, version: str, policy: Policy, *, who: str, why: str, expected_revision: int
    ) -> Policy:
        """Declare another policy for a version, as the revision after ``expected_revision``, whatever its own.

        ``FailedPrecondition`` if the newest revision is another one: somebody else changed it meanwhile. Whether it
        fits the model's signature is for the caller to check (``contract.constraints.check_policy``).
        """
        with self._change(check_name(name), who, why) as (connection, change):
            target = lookup.get_version(connection, name, version)
            newest_revision = lookup.get_policy(connection, target).revision
            if newest_revision != expected_revision:
                raise FailedPrecondition(
                    "the policy was changed meanwhile",
                    field="expected_revision",
                    hint=f"look at revision {newest_revision}, then decide again",
                )
            declared = msgspec.structs.replace(policy, revision=expected_revision + 1)
            enter_policy(connection, change, target.version, declared)
            return declared

    def record_check(
        self,
        name: str,
        version: str,
        *,
        model_digest: str,
        passed: bool,
        document: Mapping[str, Any],
        against: str | None = None,
        who: str,
        why: str,
    ) -> CheckRecord:
        """Keep what a check has found of a version; ``document`` is a JSON object.

        ``FailedPrecondition`` if the version has another digest than ``model_digest``: something else was checked."""
        with self._change(check_name(name), who, why) as (connection, change):
            target = lookup.get_version(connection, name, version)
            if target.model_digest != model_digest:
                raise FailedPrecondition(
                    "what was checked is not what is registered", field="model_digest", hint="check it again"
                )
            return enter_check(connection, change, target, passed=passed, against=against, document=document)

    def archive(self, name: str, version: str, *, who: str, why: str) -> ModelVersion:
        """Take a version out of use; its row and files stay. ``FailedPrecondition`` while an alias points to it."""
        with self._change(check_name(name), who, why) as (connection, change):
            target = lookup.get_version(connection, name, version)
            pointing = connection.execute(
                sa.select(aliases.c.alias).where(aliases.c.model == name, aliases.c.version == target.version)
            ).scalars()
            if there := sorted(pointing):
                raise FailedPrecondition(
                    "an alias points to the version", field="version", hint=f"move {', '.join(there)} first"
                )
            return _set_state(connection, change, target, "archived")

    def restore(self, name: str, version: str, *, who: str, why: str) -> ModelVersion:
        """Make an archived version available again. ``FailedPrecondition`` once its files have been removed."""
        with self._change(check_name(name), who, why) as (connection, change):
            target = lookup.get_version(connection, name, version)
            if lookup.is_collected(connection, target):
                raise FailedPrecondition(
                    "the files of the version were removed",
                    field="version",
                    hint="push it again with the same content and version, then restore it",
                )
            return _set_state(connection, change, target, "available")

    @contextmanager
    def _change(self, name: str, who: str, why: str) -> Iterator[tuple[sa.Connection, Change]]:
        """A transaction that no other change runs beside, and what its history entries share."""
        check_text(who, "who")
        check_text(why, "why")
        with writing(self._engine) as connection:
            lock(connection)
            # The time is read under the lock: history ids and times grow together.
            yield connection, Change(name, who, why, to_microseconds(self._clock.now()))


def _sign(connection: sa.Connection, change: Change, version: str, digest: str, sign: Signing | None) -> None:
    if sign is not None:
        enter_signature(connection, change, version, sign(change.model, version, digest))


def _expect(
    connection: sa.Connection, name: str, alias: str, expected_from: str | msgspec.UnsetType | None
) -> str | None:
    """Where the alias points now, which must be where the caller believed."""
    query = sa.select(aliases.c.version).where(aliases.c.model == name, aliases.c.alias == alias)
    current: str | None = connection.execute(query).scalar()
    if expected_from is not msgspec.UNSET and current != expected_from:
        raise FailedPrecondition(
            "the alias was moved meanwhile",
            field="alias",
            hint=f"it points to {current} now; decide again" if current else "it does not exist; decide again",
        )
    return current


def _point(
    connection: sa.Connection,
    change: Change,
    alias: str,
    current: str | None,
    version: str,
    evidence: Mapping[str, Any] | None,
) -> None:
    if current is None:
        connection.execute(aliases.insert().values(model=change.model, alias=alias, version=version))
    else:
        row = (aliases.c.model == change.model) & (aliases.c.alias == alias)
        connection.execute(aliases.update().where(row).values(version=version))
    change.record(connection, "alias", alias=alias, from_version=current, to_version=version, evidence=evidence)


def _set_state(connection: sa.Connection, change: Change, target: ModelVersion, state: State) -> ModelVersion:
    if target.state == state:
        return target
    row = (versions.c.model == target.model) & (versions.c.version == target.version)
    connection.execute(versions.update().where(row).values(state=state))
    change.record(connection, "archive" if state == "archived" else "restore", version=target.version)
    return msgspec.structs.replace(target, state=state)
