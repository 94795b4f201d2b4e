"""The connection to the registry's database: one pool, honest transactions, and errors in the product's own words.

SQLite and PostgreSQL differ here and nowhere else. ``Registry`` is the only caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import exc

from keelway.errors import FailedPrecondition, InvalidInput, Unavailable

#: How long a connection may take, a statement waits for another's lock, and a caller for a free connection, before
#: ``Unavailable``.
WAIT_SECONDS: Final = 5.0
#: How long PostgreSQL may work on a statement, be silent in the middle of one, or see nothing more of a transaction
#: that holds locks.
STATEMENT_SECONDS: Final = 15.0

_WRITES: Final = "keelway_writes"
_URL_HINT: Final = "write sqlite:///path/to/registry.db or postgresql+psycopg://user@host/database"


def connect(url: str) -> sa.Engine:
    """An engine for ``url``, not connected yet. The folder of an SQLite file is made if it is missing.

    Raises ``InvalidInput`` for an address of another kind, ``FailedPrecondition`` if the driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError:
        raise InvalidInput("the store's address is not valid", field="store", hint=_URL_HINT) from None
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    if parsed.get_backend_name() == "postgresql":
        return _postgresql(parsed)
    raise InvalidInput("the store's address is neither SQLite nor PostgreSQL", field="store", hint=_URL_HINT)


def _sqlite(url: sa.URL) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidInput("a registry in memory would be gone at once", field="store", hint=_URL_HINT)
    try:
        Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unavailable() from error
    engine = sa.create_engine(url, connect_args={"timeout": WAIT_SECONDS}, **_COMMON)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        # The driver's own idea of when a transaction begins leaves reads and DDL outside: we begin them ourselves.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A transaction that first reads and then writes fails at once when another wrote between: lock before reading.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    limits = {
        "lock_timeout": WAIT_SECONDS,
        "statement_timeout": STATEMENT_SECONDS,
        "idle_in_transaction_session_timeout": STATEMENT_SECONDS,
    }
    arguments = {
        "connect_timeout": max(1, round(WAIT_SECONDS)),
        "options": " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in limits.items()),
        "application_name": "keelway",
    }
    try:
        engine = sa.create_engine(url, connect_args=arguments, pool_pre_ping=True, **_COMMON)
    except ImportError as error:
        raise FailedPrecondition(
            "the PostgreSQL driver is not installed", field="store", hint='pip install "keelway[postgresql]"'
        ) from error
    if engine.dialect.driver == "psycopg":
        sa.event.listen(engine, "do_connect", _connect_bounded)
    return engine


def _connect_bounded(_: object, __: object, arguments: list[Any], named: dict[str, Any]) -> Any:
    """A connection that gives up on a server which takes a statement and never answers.

    The server's own limits do not help against a machine that has stopped, or a network that swallows packets.
    """
    import psycopg

    class Bounded(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                # A little longer than the server has, which knows better what it was that took so long.
                return super().wait(gen, interval, STATEMENT_SECONDS + 1.0 if timeout is None else timeout)
            except psycopg.OperationalError:
                if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                    self.close()  # its answer may still come, and would be taken for that of the next statement
                raise

    return Bounded.connect(*arguments, **named)


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


_COMMON: Final[dict[str, Any]] = {
    "pool_size": 5,
    "max_overflow": 5,
    "pool_timeout": WAIT_SECONDS,
    "json_serializer": _encode,
    "json_deserializer": msgspec.json.decode,
}


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection on one consistent state. Nothing is written. Raises ``Unavailable``."""
    with _answering(), engine.connect() as connection:
        # SQLite's transactions are so anyway.
        options = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        yield connection.execution_options(**options)


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection in a transaction that commits when the block ends and leaves nothing if it raises."""
    with _answering(), engine.connect() as plain:
        connection = plain.execution_options(**{_WRITES: True})
        with connection.begin():
            yield connection


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except exc.IntegrityError:
        raise  # a mistake of ours, not the database's
    except (exc.DBAPIError, exc.TimeoutError) as error:
        raise _unavailable() from error


def _unavailable() -> Unavailable:
    return Unavailable(
        "the registry's database is busy or cannot be reached",
        field="store",
        hint="check its address, its rights and the disk, then try again",
        retry_after=1.0,
    )
