# S4: append-only history; the schema the code expects is the schema the migrations make
from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.registry.conftest import SQLITE

from keelway.clock import Clock
from keelway.errors import FailedPrecondition, InvalidInput, Unavailable
from keelway.registry import migration, schema
from keelway.registry.database import connect, writing
from keelway.registry.migrations import HEAD
from keelway.registry.store import Registry

DIGEST = "sha256:" + "0" * 64


def test_the_newest_migration_is_the_one_the_code_expects() -> None:
    assert ScriptDirectory(migration._FOLDER).get_current_head() == HEAD


def test_the_migrations_make_the_tables_the_code_queries(registry: Registry) -> None:
    with registry._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


@SQLITE
def test_the_store_reads_ahead_of_writers_and_checks_references(registry: Registry) -> None:
    with registry._engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 1, 5000]


FORGERIES = [
    "UPDATE history SET why = 'forged'",
    "DELETE FROM history",
    "DELETE FROM history WHERE id = 1",
]
_FORGED = """INTO history (id, at, who, action, model, why, previous, hash)
    VALUES (1, 0, 'x', 'push', 'm', 'forged', hex(zeroblob(32)), hex(zeroblob(32)))"""
REPLACEMENTS = [f"INSERT OR REPLACE {_FORGED}", f"REPLACE {_FORGED}"]


def forge(url: str, statement: str) -> None:
    """Execute ``statement`` as somebody else who may write there, without what keelway has in between."""
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("url", "statement"),
    [
        *(("sqlite", statement) for statement in [*FORGERIES, *REPLACEMENTS]),
        *(("postgresql", statement) for statement in [*FORGERIES, "TRUNCATE history"]),
    ],
    indirect=["url"],
)
def test_history_cannot_be_changed_even_by_hand(registry: Registry, url: str, statement: str) -> None:
    registry.push("churn", None, DIGEST, who="ann", why="x")
    before = registry.history()
    with pytest.raises(sa.exc.DBAPIError, match="append"):
        forge(url, statement)
    assert registry.history() == before


@SQLITE
def test_opening_a_store_at_head_does_not_import_alembic(registry: Registry, url: str) -> None:
    program = """
import sys
from keelway.clock import SystemClock
from keelway.registry.database import connect, writing
from keelway.registry.migrations import HEAD
from keelway.registry.store import Registry
Registry.open(sys.argv[1], clock=SystemClock()).close()
print("alembic" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_a_store_is_kept_when_opened_again(url: str, clock: Clock) -> None:
    for expected in ("1.0.0", "1.1.0"):
        with closing(Registry.open(url, clock=clock)) as registry:
            assert registry.push("churn", None, DIGEST, who="ann", why="x").version == expected


def at_revision(url: str, revision: str) -> sa.Engine:
    """A database as an older keelway left it."""
    engine = connect(url)
    config = Config()
    config.set_main_option("script_location", str(migration._FOLDER))
    config.set_main_option("path_separator", "os")
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


def test_the_history_of_an_older_keelway_is_chained_and_still_append_only(url: str, clock: Clock) -> None:
    engine = at_revision(url, "0003")
    evidence = """'{"b": [1, 2.5, {"é": null}], "a": "\u00fc", "n": 1e300}'"""
    with writing(engine) as connection:
        for number in range(1, 6):
            connection.exec_driver_sql(
                "INSERT INTO history (id, at, who, action, model, why, evidence) VALUES "
                f"({number * 2}, {number}, 'ann', 'policy', 'churn', 'wé', {evidence if number % 2 else 'NULL'})"
            )
        connection.exec_driver_sql("UPDATE registry_state SET token = 5")
    engine.dispose()
    with closing(Registry.open(url, clock=clock)) as registry:
        registry.push("churn", None, DIGEST, who="ann", why="x")
        assert registry.audit().findings == ()
        assert registry.audit().entries == 7
        assert [entry.id for entry in registry.history()] == [12, 11, 10, 8, 6, 4, 2]
    with pytest.raises(sa.exc.DBAPIError, match="append"):
        forge(url, "UPDATE history SET why = 'forged'")
    with pytest.raises(sa.exc.DBAPIError):  # what a process of the older keelway would still try
        forge(url, "INSERT INTO history (id, at, who, action, model, why) VALUES (99, 0, 'x', 'push', 'm', 'y')")


class Busy:
    """A connection as SQLite gives it when two processes switch the journal of a new file at the same moment."""

    def cursor(self) -> sqlite3.Cursor:
        raise sqlite3.OperationalError("database is locked")

    def close(self) -> None:
        pass


@SQLITE
def test_the_switch_to_the_write_ahead_log_is_tried_until_no_other_process_is_at_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect(url)
    whole, refusals = engine.raw_connection, [Busy(), Busy()]
    with monkeypatch.context() as patched:
        patched.setattr(engine, "raw_connection", lambda: refusals.pop() if refusals else whole())
        migration._write_ahead(engine)
    assert refusals == []
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


def test_a_database_of_something_else_is_left_alone(url: str, clock: Clock) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir()
    forge(url, "CREATE TABLE invoices (id INTEGER)")
    with pytest.raises(FailedPrecondition):
        Registry.open(url, clock=clock)
    engine = sa.create_engine(url)
    assert sa.inspect(engine).get_table_names() == ["invoices"]
    engine.dispose()


def test_a_store_of_a_newer_keelway_is_left_alone(registry: Registry, url: str, clock: Clock) -> None:
    forge(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FailedPrecondition) as refusal:
        Registry.open(url, clock=clock)
    assert "upgrade" in str(refusal.value.hint)


def test_a_migration_that_fails_halfway_leaves_nothing(url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(migration, "_upgrade", fail)
        with pytest.raises(Unavailable):
            Registry.open(url, clock=clock)
    with closing(Registry.open(url, clock=clock)) as registry:
        assert registry.models() == ()


@pytest.mark.parametrize("text", ["", "nonsense", "mysql://localhost/x", "sqlite://", "sqlite:///:memory:", "/a/path"])
def test_an_address_that_is_no_store_is_refused(text: str, clock: Clock) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Registry.open(text, clock=clock)
    assert "sqlite:///" in str(refusal.value.hint)


def test_a_postgresql_driver_that_is_missing_is_named(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(FailedPrecondition) as refusal:
        Registry.open("postgresql+psycopg://localhost/x", clock=clock)
    assert "keelway[postgresql]" in str(refusal.value.hint)


def test_a_file_that_is_no_database_and_a_place_that_cannot_be_are_unavailable(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be read as one " * 100)
    for path in (tmp_path / "text", tmp_path / "text" / "below.db", tmp_path):
        with pytest.raises(Unavailable) as refusal:
            Registry.open(f"sqlite:///{path}", clock=clock)
        assert str(tmp_path) not in refusal.value.message


def test_a_path_with_a_percent_sign_works(tmp_path: Path, clock: Clock) -> None:
    with closing(Registry.open(f"sqlite:///{tmp_path}/100%s/registry.db", clock=clock)) as registry:
        assert registry.state_token() == 0
