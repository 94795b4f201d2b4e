"""What the history tells of the rows of every table, and which rows are otherwise.

Entries are taken in their order, each in the place of those before it. Then each table is read once, a few rows at a
time. Of documents, signatures and hashes, there and told, are digests.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from keelway.contract.names import fold
from keelway.registry import evidence
from keelway.registry.chain import Finding
from keelway.registry.evidence import digest
from keelway.registry.schema import aliases, api_keys, checks, models, policies, signatures, versions
from keelway.registry.signatures import stored_bytes

Entry = Mapping[str, Any]
Key = tuple[Any, ...]

#: Baselines and reports of checks may be large: so many of them are in memory at a time.
_ROWS: Final = 50


class _Model(msgspec.Struct):
    folded: Any
    created_at: Any
    created_by: Any


class _Version(msgspec.Struct):
    model_digest: Any
    report: Any
    baseline: Any
    detector: Any
    metadata: Any
    created_at: Any
    created_by: Any
    state: Any = "available"
    collected_at: Any = None


class _Policy(msgspec.Struct):
    policy: Any
    created_at: Any
    created_by: Any
    why: Any


class _Signature(msgspec.Struct):
    signature: Any
    created_at: Any
    created_by: Any


class _Alias(msgspec.Struct):
    version: Any


class _Check(msgspec.Struct):
    model_digest: Any
    at: Any
    who: Any
    passed: Any
    against: Any
    document: Any


class _ApiKey(msgspec.Struct):
    name: Any
    digest: Any
    scopes: Any
    tenant: Any
    created_at: Any
    created_by: Any
    expires_at: Any
    revoked_at: Any = None


_Row = TypeVar("_Row", bound=msgspec.Struct)
_Said = TypeVar("_Said", bound=msgspec.Struct)


class _Table(Generic[_Row]):
    """What is ``told`` of the rows of one table, by the columns of ``key``; ``UNSET`` is what no entry says."""

    def __init__(self, name: str, table: sa.Table, row: type[_Row], *key: str) -> None:
        self.told: dict[Key, _Row] = {}
        self._name = name.format
        self._row = row
        self._key = [table.c[name] for name in key]
        self._columns = [table.c[name] for name in row.__struct_fields__]
        self._order = table.primary_key

    def compare(self, connection: sa.Connection, findings: list[Finding]) -> None:
        """Forgets what it was told on the way."""
        for key, there in self._there(connection):
            told = self.told.pop(key, None)
            if told is None:
                findings.append(Finding(None, f"{self._name(*key)} is there, and the history does not tell of it"))
            elif differences := ", ".join(_differences(told, there)):
                what = f"{self._name(*key)} is not what the history says of it: {differences}"
                findings.append(Finding(None, what))
        gone = (f"{self._name(*key)} is not there, and the history tells of it" for key in sorted(self.told, key=repr))
        findings.extend(Finding(None, what) for what in gone)
        self.told.clear()

    def _there(self, connection: sa.Connection) -> Iterator[tuple[Key, _Row]]:
        query = sa.select(*self._key, *map(as_text, self._columns)).order_by(*self._order)
        for values in connection.execute(query.execution_options(yield_per=_ROWS)):
            row = self._row(*map(_kept, self._columns, values[len(self._key) :]))
            yield tuple(values[: len(self._key)]), row


def _differences(told: msgspec.Struct, there: msgspec.Struct) -> Iterator[str]:
    for name in told.__struct_fields__:
        was, now = getattr(told, name), getattr(there, name)
        if was is not UNSET and was != now:
            yield f"{name} is {reprlib.repr(now)}, not {reprlib.repr(was)}"


class Told:
    """What all entries tell that were taken."""

    def __init__(self) -> None:
        self._models = _Table("model {}", models, _Model, "name")
        self._versions = _Table("{} {}", versions, _Version, "model", "version")
        self._policies = _Table("policy {2} of {0} {1}", policies, _Policy, "model", "version", "revision")
        self._signatures = _Table("signature {2} of {0} {1}", signatures, _Signature, "model", "version", "key_id")
        self._aliases = _Table("alias {1} of {0}", aliases, _Alias, "model", "alias")
        self._checks = _Table("check {} of {} {}", checks, _Check, "id", "model", "version")
        self._keys = _Table("API key {}", api_keys, _ApiKey, "id")
        self._by_action: Final[Mapping[str, Callable[[Entry], None]]] = {
            "push": self._push,
            "policy": self._policy,
            "sign": self._sign,
            "alias": self._alias,
            "check": self._check,
            "archive": self._state,
            "restore": self._state,
            "collect": self._collect,
            "key_create": self._key,
            "key_rotate": self._key,
            "key_revoke": self._revoke,
        }
        self._malformed: list[Finding] = []

    def take(self, entry: Entry) -> None:
        by_action = self._by_action.get(entry["action"])
        try:
            if by_action is not None:
                by_action(entry)
        except msgspec.ValidationError:
            self._malformed.append(Finding(entry["id"], "its evidence is not of the form that such an entry has"))

    def compare(self, connection: sa.Connection, findings: list[Finding]) -> None:
        """Add to ``findings`` each row that is not as told, that is not there, or of which nothing was told."""
        findings.extend(self._malformed)
        self._models.compare(connection, findings)
        self._versions.compare(connection, findings)
        self._policies.compare(connection, findings)
        self._signatures.compare(connection, findings)
        self._aliases.compare(connection, findings)
        self._checks.compare(connection, findings)
        self._keys.compare(connection, findings)

    def _push(self, entry: Entry) -> None:
        said = _said(entry, evidence.PushEvidence)
        made, key = (entry["at"], entry["who"]), _version(entry)
        self._models.told.setdefault((entry["model"],), _Model(fold(str(entry["model"])), *made))
        told = _Version(said.model_digest, said.report, said.baseline, said.detector, said.metadata, *made)
        known = self._versions.told.get(key)
        if known is not None:  # its files had been removed
            told.created_at, told.created_by, told.state = known.created_at, known.created_by, known.state
        self._versions.told[key] = told
        if known is None or said.policy is not UNSET:
            self._policies.told[*key, 1] = _Policy(said.policy, *made, entry["why"])

    def _policy(self, entry: Entry) -> None:
        said = _said(entry, evidence.PolicyEvidence)
        if said.revision is not UNSET:
            told = _Policy(said.policy, entry["at"], entry["who"], entry["why"])
            self._policies.told[*_version(entry), said.revision] = told

    def _sign(self, entry: Entry) -> None:
        said = _said(entry, evidence.SignEvidence)
        if said.key_id is not UNSET:
            told = _Signature(said.signature, entry["at"], entry["who"])
            self._signatures.told[*_version(entry), said.key_id] = told

    def _alias(self, entry: Entry) -> None:
        key = (entry["model"], entry["alias"])
        self._aliases.told.pop(key, None)
        if entry["to_version"] is not None:
            self._aliases.told[key] = _Alias(entry["to_version"])

    def _check(self, entry: Entry) -> None:
        said = _said(entry, evidence.CheckEvidence)
        if said.check is not UNSET:
            found = (said.passed, said.against, said.document)
            told = _Check(said.model_digest, entry["at"], entry["who"], *found)
            self._checks.told[said.check, *_version(entry)] = told

    def _state(self, entry: Entry) -> None:
        if known := self._versions.told.get(_version(entry)):
            known.state = "archived" if entry["action"] == "archive" else "available"

    def _collect(self, entry: Entry) -> None:
        said = _said(entry, evidence.CollectEvidence)
        if known := self._versions.told.get(_version(entry)):
            known.collected_at = said.collected_at

    def _key(self, entry: Entry) -> None:
        said = _said(entry, evidence.KeyEvidence)
        if entry["action"] == "key_rotate":
            self._end(said)
        if said.id is not UNSET:
            made = (entry["at"], entry["who"])
            scopes = UNSET if said.scopes is UNSET else digest(said.scopes)
            self._keys.told[said.id,] = _ApiKey(said.key, said.hash, scopes, said.tenant, *made, said.expires_at)

    def _end(self, said: evidence.KeyEvidence) -> None:
        """The keys that a new one takes the place of."""
        if said.ends is not UNSET:
            for public, moment in said.ends.items():
                if known := self._keys.told.get((public,)):
                    known.expires_at = moment
        else:
            for known in self._keys.told.values():
                if known.name == said.key:
                    known.expires_at = UNSET

    def _revoke(self, entry: Entry) -> None:
        said = _said(entry, evidence.RevokeEvidence)
        for public in said.ids or ():
            if known := self._keys.told.get((public,)):
                known.revoked_at = entry["at"]


def _said(entry: Entry, kind: type[_Said]) -> _Said:
    """Raises ``msgspec.ValidationError`` for what is no such evidence."""
    return msgspec.convert({} if entry["evidence"] is None else entry["evidence"], kind)


def _version(entry: Entry) -> tuple[Any, Any]:
    return entry["model"], entry["version"]


def as_text(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """A column for a query; of a JSON one its text, which is read by ``from_json``."""
    return sa.cast(column, sa.Text).label(column.name) if isinstance(column.type, sa.JSON) else column


def from_json(text: str | None) -> Any:
    """What is stored. What is no JSON is itself, and so is nothing that was ever written."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text


def _kept(column: sa.Column[Any], value: Any) -> Any:
    if isinstance(column.type, sa.JSON):
        return digest(from_json(value))
    if isinstance(column.type, sa.LargeBinary):
        return digest(stored_bytes(value))
    return digest(value) if column is api_keys.c.digest else value
