"""Brings a database to the schema this code was written for, from nothing or from an older version.

Alembic does the work and is imported only when there is any: a plain read of its table decides, because importing it
costs more than everything else at start-up. ``Registry.open`` is the only caller.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from keelway.errors import FailedPrecondition
from keelway.registry.database import WAIT_SECONDS, reading, writing
from keelway.registry.migrations import HEAD

_FOLDER: Final = Path(__file__).parent / "migrations"
_PAUSE_SECONDS: Final = 0.02
#: An arbitrary number that all keelway processes agree on, for PostgreSQL's advisory lock.
_LOCK: Final = 7_304_951

#: Alembic keeps its context in module globals: one migration at a time in a process.
_migrating: Final = threading.Lock()


def bring_to_head(engine: sa.Engine) -> None:
    """Migrate if need be. Any number of processes may do so at once: one works, the others wait and find it done.

    Raises ``FailedPrecondition`` if the database belongs to something else or to a newer keelway, ``Unavailable`` if it
    does not answer.
    """
    with reading(engine) as connection:
        if _revision(connection) == HEAD:
            return
    with _migrating:
        import alembic.command  # takes a while, which a transaction must not  # noqa: F401

        if engine.dialect.name == "sqlite":
            _write_ahead(engine)
        with writing(engine) as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            if _revision(connection) != HEAD:
                _upgrade(connection)


def _revision(connection: sa.Connection) -> str | None:
    """The migration the database is at; ``None`` if it is empty."""
    tables = set(sa.inspect(connection).get_table_names())
    if "alembic_version" in tables:
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if tables:
        raise FailedPrecondition(
            "the database holds something else than a registry", field="store", hint="name a new or an empty database"
        )
    return None


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise FailedPrecondition(
            "the registry was written by a newer version of keelway", field="store", hint="upgrade keelway"
        ) from error


def _write_ahead(engine: sa.Engine) -> None:
    """SQLite's write-ahead log, which stays with the file: readers never wait for a writer.

    The switch does not wait for locks as other statements do, so it is tried until another process is through with it.
    """
    for _ in range(int(WAIT_SECONDS / _PAUSE_SECONDS)):
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode = WAL")
            return
        except engine.dialect.loaded_dbapi.OperationalError:
            time.sleep(_PAUSE_SECONDS)
        finally:
            connection.close()
