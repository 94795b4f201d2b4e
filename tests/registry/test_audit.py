"""A history that was changed, reordered, cut or written anew is told from the one that was written. # S4

Whoever tampers here may write to the database and has removed the triggers first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keelway.artifacts.signing import SigningKey, TrustedKeys
from keelway.contract.constraints import Policy
from keelway.errors import FailedPrecondition
from keelway.registry import anchors
from keelway.registry.chain import GENESIS, entry_hash
from keelway.registry.schema import history, registry_state
from keelway.registry.store import Registry

KEY = SigningKey.generate()
TRUSTED = TrustedKeys.of([KEY.public_pem()], "test")


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


@pytest.fixture
def eventful(registry: Registry) -> Registry:
    """Eleven entries of two models."""
    for number in range(3):
        registry.push("churn", None, digest(number), who="ann", why="new data")
    registry.push("price", None, digest(9), who="bob", why="x")
    registry.set_alias(
        "churn", "champion", "1.1.0", who="ann", why="better", decide=lambda check, policy: {"auc": 0.91}
    )
    registry.set_alias("churn", "challenger", "1.2.0", who="ann", why="try")
    registry.remove_alias("churn", "challenger", who="ann", why="no")
    registry.archive("churn", "1.2.0", who="ann", why="old")
    registry.set_policy("churn", "1.1.0", Policy(), who="ann", why="x", expected_revision=1)
    return registry


def tamper(url: str, *statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
            for name in names:
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("DROP FUNCTION IF EXISTS history_append_only CASCADE")
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def rewrite(url: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Write the whole history anew after ``change``, every hash right, as somebody would who has read the source."""
    tamper(url)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        entries = [dict(row) for row in connection.execute(sa.select(history).order_by(history.c.id)).mappings()]
        change(entries)
        previous = GENESIS
        for entry in entries:
            entry["previous"] = previous
            previous = entry["hash"] = entry_hash(previous, entry)
        connection.execute(history.delete())
        connection.execute(history.insert(), entries)
        connection.execute(registry_state.update().values(token=len(entries)))
    engine.dispose()


def test_a_history_that_nobody_touched_has_no_findings(eventful: Registry) -> None:
    audit = eventful.audit()
    assert (audit.entries, audit.findings) == (11, ())
    assert audit.head == eventful.history(limit=1)[0].hash == eventful.head().hash


def test_an_empty_history_has_no_findings(registry: Registry) -> None:
    assert (registry.audit().entries, registry.audit().findings) == (0, ())
    assert (registry.head().entries, registry.head().hash) == (0, GENESIS)


@pytest.mark.parametrize("column", ["who", "why", "model", "version", "alias", "from_version", "to_version", "action"])
def test_a_changed_column_is_found_at_its_entry(eventful: Registry, url: str, column: str) -> None:
    tamper(url, f"UPDATE history SET {column} = 'forged' WHERE id = 6")
    assert [finding.id for finding in eventful.audit().findings if finding.id] == [6]


def test_changed_times_and_evidence_are_found(eventful: Registry, url: str) -> None:
    tamper(
        url,
        "UPDATE history SET at = at + 1 WHERE id = 3",
        """UPDATE history SET evidence = '{"auc": 0.92}' WHERE id = 7""",
    )
    assert [finding.id for finding in eventful.audit().findings if finding.id] == [3, 7]


def test_an_entry_changed_with_its_hash_is_found_at_the_next(eventful: Registry, url: str) -> None:
    tamper(url)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        row = dict(connection.execute(sa.select(history).where(history.c.id == 3)).mappings().one())
        row["why"] = "forged"
        values = {"why": "forged", "hash": entry_hash(row["previous"], row)}
        connection.execute(history.update().where(history.c.id == 3).values(**values))
    engine.dispose()
    assert [finding.id for finding in eventful.audit().findings if finding.id] == [4]


def test_reordered_entries_are_found(eventful: Registry, url: str) -> None:
    tamper(
        url,
        "UPDATE history SET id = 99 WHERE id = 3",
        "UPDATE history SET id = 3 WHERE id = 4",
        "UPDATE history SET id = 4 WHERE id = 99",
    )
    assert {3, 4, 5} <= {finding.id for finding in eventful.audit().findings}


@pytest.mark.parametrize(("number", "found"), [(1, 2), (5, 6)])
def test_a_removed_entry_is_found_at_the_next(eventful: Registry, url: str, number: int, found: int) -> None:
    tamper(url, f"DELETE FROM history WHERE id = {number}")
    findings = eventful.audit().findings
    assert findings[0].id == found
    assert "11 changes were counted and there are 10 entries" in [finding.what for finding in findings]


def test_an_inserted_entry_is_found(eventful: Registry, url: str) -> None:
    columns = "at, 'eve', action, model, version, alias, from_version, to_version, why, evidence"
    tamper(url, f"INSERT INTO history SELECT 12, {columns}, '{GENESIS}', hash FROM history WHERE id = 1")
    assert 12 in [finding.id for finding in eventful.audit().findings]


def test_a_cut_off_end_is_found_by_what_was_counted_and_by_what_is_there(eventful: Registry, url: str) -> None:
    tamper(url, "DELETE FROM history WHERE id > 9")
    whats = [finding.what for finding in eventful.audit().findings]
    assert "11 changes were counted and there are 9 entries" in whats
    assert "churn 1.2.0 is not what the history says of it: state is 'archived', not 'available'" in whats


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            "UPDATE aliases SET version = '1.0.0' WHERE model = 'churn'",
            "alias champion of churn is not what the history says of it: version is '1.0.0', not '1.1.0'",
        ),
        ("DELETE FROM aliases WHERE model = 'churn'", "alias champion of churn is not there"),
        (
            "INSERT INTO aliases (model, alias, version) VALUES ('churn', 'mine', '1.0.0')",
            "alias mine of churn is there, and the history does not tell of it",
        ),
        (f"UPDATE versions SET model_digest = '{digest(7)}' WHERE version = '1.1.0'", "churn 1.1.0 is not what"),
        ("UPDATE versions SET state = 'available'", "churn 1.2.0 is not what"),
    ],
)
def test_what_is_declared_beside_the_history_is_found(eventful: Registry, url: str, statement: str, what: str) -> None:
    tamper(url, statement)
    findings = eventful.audit().findings
    assert [(finding.id, finding.what.startswith(what)) for finding in findings] == [(None, True)]


def forged(entries: list[dict[str, Any]]) -> None:
    entries[6]["who"] = "eve"  # no row says who moved an alias


def cut(entries: list[dict[str, Any]]) -> None:
    del entries[-1:]  # and the policy that it tells of


def left_out(entries: list[dict[str, Any]]) -> None:
    del entries[7:9]  # an alias that was set and removed again
    for number, entry in enumerate(entries, 1):
        entry["id"] = number


def reordered(entries: list[dict[str, Any]]) -> None:
    entries[1]["id"], entries[2]["id"] = entries[2]["id"], entries[1]["id"]
    entries.sort(key=lambda entry: entry["id"])


@pytest.mark.parametrize(
    ("change", "beside"),
    [(forged, []), (cut, ["DELETE FROM policies WHERE revision = 2"]), (left_out, []), (reordered, [])],
)
def test_a_history_written_anew_is_found_by_an_anchor_alone(
    eventful: Registry,
    url: str,
    tmp_path: Path,
    change: Callable[[list[dict[str, Any]]], None],
    beside: list[str],
) -> None:
    anchors.append(tmp_path / "anchors", eventful.head(), KEY)
    kept = anchors.read(tmp_path / "anchors")
    assert eventful.audit(kept, TRUSTED).findings == ()
    rewrite(url, change)
    tamper(url, *beside)
    assert eventful.audit().findings == ()
    assert [finding.id for finding in eventful.audit(kept, TRUSTED).findings] == [11]


def test_old_anchors_hold_while_the_history_grows(eventful: Registry, tmp_path: Path) -> None:
    for _ in range(3):
        anchors.append(tmp_path / "anchors", eventful.head(), KEY)
        eventful.push("churn", None, digest(20), who="ann", why="x")
    kept = anchors.read(tmp_path / "anchors")
    assert [anchor.head.entries for anchor in kept] == [11, 12, 13]
    assert eventful.audit(kept, TRUSTED).findings == ()


def test_a_restored_backup_is_found(eventful: Registry, url: str, tmp_path: Path) -> None:
    anchors.append(tmp_path / "anchors", eventful.head(), KEY)

    def back(entries: list[dict[str, Any]]) -> None:
        del entries[5:]

    rewrite(url, back)
    findings = eventful.audit(anchors.read(tmp_path / "anchors"), TRUSTED).findings
    assert "the history was cut" in findings[-1].what


def test_an_anchor_is_worth_its_signature(eventful: Registry, tmp_path: Path) -> None:
    path = tmp_path / "anchors"
    anchors.append(path, eventful.head(), SigningKey.generate())
    assert "not trusted" in eventful.audit(anchors.read(path), TRUSTED).findings[0].what
    path.unlink()
    anchors.append(path, eventful.head(), KEY)
    path.write_text(path.read_text().replace('"entries":11', '"entries":10'))
    assert "does not hold" in eventful.audit(anchors.read(path), TRUSTED).findings[0].what


@pytest.mark.parametrize("content", [None, "", "\n", "{}\n", "[1]\n", "not json\n", '{"head": {}}\n'])
def test_a_file_that_holds_no_anchors_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "anchors").write_text(content)
    with pytest.raises(FailedPrecondition):
        anchors.read(tmp_path / "anchors")


def test_a_look_at_the_history_is_not_disturbed_by_changes(eventful: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from keelway.registry import audit

    whole = audit.token

    def changed_meanwhile(connection: sa.Connection) -> int:
        eventful.push("churn", None, digest(30), who="ann", why="x")
        return whole(connection)

    monkeypatch.setattr(audit, "token", changed_meanwhile)
    assert eventful.audit().findings == ()
