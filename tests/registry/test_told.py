"""Whatever is changed, removed or added in a table behind the registry's back is found by its history. # S4

Whoever does it has removed the triggers and foreign keys that are in the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.registry.conftest import SQLITE, HandClock
from tests.registry.test_audit import rewrite, tamper

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.artifacts.materialise import put_manifest
from keelway.artifacts.signing import Signature, SigningKey
from keelway.artifacts.statement import sign_version
from keelway.contract.anomaly import Detector
from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.constraints import Constraint, Policy
from keelway.contract.signature import Feature, ModelSignature
from keelway.registry.database import connect
from keelway.registry.schema import api_keys, checks, metadata, policies, versions
from keelway.registry.store import Registry
from keelway.types import StoredKey, TensorSpec

WHO = {"who": "ann", "why": "a test"}
KEY = SigningKey.generate()
SIGN = partial(sign_version, KEY)
SIGNATURE = ModelSignature(
    (Feature("x", "FP32"),), (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),)
)
DETECTOR = Detector(("x",), 9, 4, (0.5,), (1.0,), (0.5,), ((3.0,),), whitening=b"\x00" * 8)
#: NaN is null in the database, and a key that is a number is text there.
REPORT = {"worst": 4e-7, "ratio": float("nan"), "steps": ("ä", None), "bins": {1: 1e300}}

#: What tells rows apart, and is no column that could be found changed: the row is gone then, and another is there.
KEYS: Mapping[str, tuple[str, ...]] = {
    "models": ("name",),
    "versions": ("model", "version"),
    "policies": ("model", "version", "revision"),
    "signatures": ("model", "version", "key_id"),
    "aliases": ("model", "alias"),
    "checks": ("id", "model", "version"),
    "api_keys": ("id",),
}
#: Of no change.
APART = {"api_keys.last_used_at"}


@pytest.fixture
def clock() -> HandClock:
    made = HandClock()
    made.seconds = 4_000_000_000.0  # every file of the store is old
    return made


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "artifacts")


def put(store: BlobStore, content: bytes) -> str:
    entry = FileEntry("model.onnx", store.put_bytes(content).removeprefix("sha256:"), len(content))
    return put_manifest(store, Manifest((entry,), SIGNATURE, "onnx", {}))


def stored_key(number: int, name: str, expires_at: float | None = None) -> StoredKey:
    return StoredKey(f"key{number}", name, f"{number:064x}", ("predict:*",), "acme", expires_at)


@pytest.fixture
def eventful(registry: Registry, clock: HandClock, store: BlobStore) -> Registry:
    """Every kind of entry, and of each table a row that was changed since it was entered, if that can be."""
    for number in range(4):
        registry.push(
            "churn",
            None,
            put(store, b"weights %d" % number),
            report=REPORT,
            baseline=Baseline(5, (ObservedFeature("x", 5, minimum=1.0, maximum=9.5, edges=(1.0, 9.5), counts=(5,)),)),
            detector=DETECTOR if number else None,
            policy=Policy(constraints=(Constraint("x", minimum=0.0),)),
            metadata={"seed": number},
            sign=SIGN,
            **WHO,
        )
    registry.sign("churn", "1.1.0", lambda *_: Signature(KEY.key_id, b"another"), **WHO)
    registry.set_policy(
        "churn", "1.0.0", Policy(constraints=(Constraint("x", pattern="ü"),)), **WHO, expected_revision=1
    )
    for passed in (False, True):
        digest = registry.get("churn", "1.1.0").model_digest
        document = {"findings": [{"figure": float("inf")}]}
        registry.record_check(
            "churn", "1.1.0", model_digest=digest, passed=passed, document=document, against="1.0.0", **WHO
        )
    registry.set_alias("churn", "champion", "1.1.0", **WHO)
    registry.set_alias("churn", "challenger", "1.0.0", **WHO)
    registry.remove_alias("churn", "challenger", **WHO)
    for version in ("1.2.0", "1.3.0"):
        registry.archive("churn", version, **WHO)
    registry.restore("churn", "1.3.0", **WHO)
    store.put_bytes(b"garbage")
    assert registry.collection.run(store, grace=0, archived=True, **WHO).versions == ("churn@1.2.0",)
    registry.keys.create(stored_key(1, "nightly"), **WHO)
    registry.keys.rotate("nightly", stored_key(2, "nightly"), 3600, **WHO)
    registry.keys.create(stored_key(3, "weekly", clock.now() + 60), **WHO)
    registry.keys.rotate("weekly", stored_key(4, "weekly"), 3600, **WHO)
    registry.keys.revoke("weekly", **WHO)
    registry.keys.note_used({"key2": clock.now()})
    return registry


def execute(url: str, *statements: sa.Executable) -> None:
    engine = connect(url)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET session_replication_role = replica")
        else:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql("BEGIN")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    engine.dispose()


def first_row(url: str, table: sa.Table) -> dict[str, Any]:
    engine = connect(url)
    with engine.connect() as connection:
        row = dict(connection.execute(sa.select(table).order_by(*table.primary_key).limit(1)).mappings().one())
    engine.dispose()
    return row


def only(table: sa.Table, row: Mapping[str, Any]) -> sa.ColumnElement[bool]:
    return sa.and_(*(column == row[column.name] for column in table.primary_key))


def found(registry: Registry) -> list[str]:
    findings = registry.audit().findings
    assert [finding.id for finding in findings] == [None] * len(findings)
    return [finding.what for finding in findings]


def forged(column: sa.Column[Any]) -> Any:
    if isinstance(column.type, sa.Boolean):
        return True
    if isinstance(column.type, sa.JSON):
        return ["admin"]
    if isinstance(column.type, sa.LargeBinary):
        return b"forged"
    if isinstance(column.type, sa.Integer):
        return 1
    return "archived" if column.name == "state" else "9.9.9"


def columns(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.c if column.name not in KEYS[table.name] and str(column) not in APART]


def test_every_table_that_changes_with_the_history_is_looked_at() -> None:
    assert KEYS.keys() == metadata.tables.keys() - {"history", "registry_state"}


def test_an_eventful_registry_that_nobody_touched_has_no_findings(eventful: Registry) -> None:
    actions = {entry.action for entry in eventful.history(limit=1000)}
    assert len(actions) == 12
    assert found(eventful) == []


@pytest.mark.parametrize("table", KEYS)
def test_a_changed_column_is_found(eventful: Registry, url: str, table: str) -> None:
    own = metadata.tables[table]
    row = first_row(url, own)
    for column in columns(own):
        change = own.update().where(only(own, row))
        execute(url, change.values({column: forged(column)}))
        (what,) = found(eventful)
        assert f" is not what the history says of it: {column.name} is " in what
        execute(url, change.values({column: row[column.name]}))
    assert found(eventful) == []


@pytest.mark.parametrize("table", KEYS)
def test_a_row_that_has_become_another_is_found_twice(eventful: Registry, url: str, table: str) -> None:
    own = metadata.tables[table]
    row = first_row(url, own)
    for name in KEYS[table]:
        value = 99 if isinstance(own.c[name].type, sa.Integer) else "forged"
        execute(url, own.update().where(only(own, row)).values({name: value}))
        there, gone = found(eventful)
        assert "is there, and the history does not tell of it" in there
        assert "is not there, and the history tells of it" in gone
        execute(url, own.update().where(only(own, {**row, name: value})).values({name: row[name]}))


@pytest.mark.parametrize("table", KEYS)
def test_a_removed_row_is_found(eventful: Registry, url: str, table: str) -> None:
    own = metadata.tables[table]
    execute(url, own.delete().where(only(own, first_row(url, own))))
    (what,) = found(eventful)
    assert what.endswith(" is not there, and the history tells of it")


@pytest.mark.parametrize("table", KEYS)
def test_an_added_row_is_found(eventful: Registry, url: str, table: str) -> None:
    """A check that has passed, a key with every right, a signature: whatever it is, it was never entered."""
    own = metadata.tables[table]
    row = first_row(url, own)
    last = KEYS[table][-1] if table != "checks" else "id"
    row[last] = 99 if isinstance(own.c[last].type, sa.Integer) else "forged"
    added = {**row, "folded": "forged", "passed": True, "scopes": ["admin"]}
    execute(url, own.insert().values({name: added[name] for name in row}))
    (what,) = found(eventful)
    assert what.endswith(" is there, and the history does not tell of it")


def test_the_finding_says_what_is_there_and_what_was_told(eventful: Registry, url: str) -> None:
    execute(
        url,
        checks.update().where(checks.c.id == 1).values(passed=True, against=None),
        api_keys.update().where(api_keys.c.id == "key4").values(revoked_at=None),
    )
    check, key = found(eventful)
    assert check == (
        "check 1 of churn 1.1.0 is not what the history says of it: "
        "passed is True, not False, against is None, not '1.0.0'"
    )
    assert key.startswith("API key key4 is not what the history says of it: revoked_at is None, not 4000")


def test_a_released_version_whose_files_seem_to_be_there_is_found(eventful: Registry, url: str) -> None:
    execute(url, versions.update().values(collected_at=None))
    (what,) = found(eventful)
    assert what.startswith("churn 1.2.0 is not what the history says of it: collected_at is None")


def test_a_version_that_was_pushed_again_is_as_the_second_push_says_and_still_archived(
    eventful: Registry, url: str
) -> None:
    digest = eventful.get("churn", "1.2.0").model_digest
    eventful.push("churn", "1.2.0", digest, report={"again": True}, metadata={"seed": "another"}, **WHO)
    assert [entry.action for entry in eventful.history("churn", 2)] == ["push", "collect"]
    assert found(eventful) == []
    eventful.restore("churn", "1.2.0", **WHO)
    assert found(eventful) == []
    execute(url, versions.update().where(versions.c.version == "1.2.0").values(metadata={"seed": 2}))
    (what,) = found(eventful)
    assert what.startswith("churn 1.2.0 is not what the history says of it: metadata is ")


#: What entries said before they said what their rows hold.
BEFORE: Mapping[str, tuple[str, ...]] = {
    "push": ("model_digest",),
    "policy": ("revision",),
    "sign": ("key_id",),
    "key_create": ("key", "id", "scopes"),
    "key_rotate": ("key", "id", "scopes"),
    "collect": (),
}


def say_less(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        if entry["action"] in BEFORE:
            entry["evidence"] = {name: entry["evidence"][name] for name in BEFORE[entry["action"]]} or None


def test_what_an_entry_of_an_older_keelway_does_not_say_is_not_compared(eventful: Registry, url: str) -> None:
    rewrite(url, say_less)
    assert found(eventful) == []
    # It said nothing of a push that has brought files back.
    execute(url, versions.update().values(collected_at=None, report={}))
    execute(url, policies.update().values(policy={}), api_keys.update().values(tenant="other", expires_at=None))
    assert found(eventful) == []
    eventful.keys.rotate("nightly", stored_key(5, "nightly"), 60, **WHO)
    eventful.keys.revoke("nightly", **WHO)
    assert found(eventful) == []


def test_a_rotation_by_an_older_keelway_beside_a_newer_one_leaves_open_when_the_earlier_keys_end(
    eventful: Registry, url: str
) -> None:
    def change(entries: list[dict[str, Any]]) -> None:
        say_less([entry for entry in entries if entry["action"] == "key_rotate"])

    rewrite(url, change)
    assert found(eventful) == []


def test_what_an_entry_of_an_older_keelway_says_is_compared(eventful: Registry, url: str) -> None:
    rewrite(url, say_less)
    execute(
        url,
        checks.update().where(checks.c.id == 1).values(document={}),
        api_keys.update().where(api_keys.c.id == "key1").values(scopes=["admin"]),
        policies.update().where(policies.c.revision == 2).values(created_by="eve"),
        versions.update().where(versions.c.version == "1.3.0").values(collected_at=1),
    )
    assert [what.partition(" of it: ")[2].split()[0] for what in found(eventful)] == [
        "collected_at",
        "created_by",
        "document",
        "scopes",
    ]


MALFORMED: tuple[Any, ...] = (
    "text",
    7,
    False,
    [],
    [1],
    {"model_digest": 7, "revision": "1", "key_id": None, "check": "1", "collected_at": "1", "key": 1, "ids": 5},
    {"report": {}, "policy": [], "signature": 1, "passed": 1, "collected_at": [], "scopes": "admin", "ids": [[]]},
    {"report": 0, "revision": [1], "key_id": {}, "check": {}, "collected_at": {}, "id": ["a"], "ids": {"a": 1}},
)


@pytest.mark.parametrize("evidence", MALFORMED, ids=repr)
def test_evidence_of_another_form_is_found_at_its_entry(eventful: Registry, url: str, evidence: Any) -> None:
    told = ("push", "policy", "sign", "check", "collect", "key_create", "key_rotate", "key_revoke")
    changed = []

    def change(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if entry["action"] in told:
                entry["evidence"] = evidence
                changed.append(entry["id"])

    rewrite(url, change)
    findings = eventful.audit().findings
    assert [finding.id for finding in findings if finding.id] == changed
    assert len(findings) > len(changed)
    assert eventful.history(limit=1000)


@pytest.mark.parametrize("text", ["1e999", "[" * 5000 + "]" * 5000])
def test_json_that_nobody_can_read_is_found(eventful: Registry, url: str, text: str) -> None:
    tamper(
        url,
        f"UPDATE history SET evidence = '{text}' WHERE id = 2",
        f"UPDATE versions SET baseline = '{text}' WHERE version = '1.1.0'",
        f"UPDATE checks SET document = '{text}' WHERE id = 1",
        f"UPDATE api_keys SET scopes = '{text}' WHERE id = 'key1'",
    )
    findings = eventful.audit().findings
    assert {finding.id for finding in findings} == {2, None}
    assert len([what for what in findings if " is not what the history says of it: " in what.what]) == 3


@SQLITE
def test_values_of_any_type_are_found(eventful: Registry, url: str) -> None:
    tamper(
        url,
        "UPDATE history SET version = NULL, model = X'00', who = 1.5 WHERE id IN (1, 5, 10)",
        "UPDATE versions SET created_at = 'text', created_by = X'00', metadata = 'no JSON' WHERE version = '1.1.0'",
        "UPDATE checks SET passed = 'text', document = 7, version = X'01' WHERE id = 1",
        "UPDATE signatures SET signature = 'text' WHERE version = '1.1.0'",
        "UPDATE api_keys SET digest = X'00', scopes = '' WHERE id = 'key1'",
    )
    assert len(eventful.audit().findings) > 5
