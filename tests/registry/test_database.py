"""A PostgreSQL that goes away, stops or comes back: what the registry says, and that it never waits for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

import pytest
import sqlalchemy as sa
from tests.postgresql import PostgreSQL
from tests.registry.conftest import POSTGRESQL

from keelway.clock import Clock
from keelway.errors import Unavailable
from keelway.registry import database
from keelway.registry.history import lock
from keelway.registry.store import Registry

DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with PostgreSQL() as own:
        yield own


@pytest.fixture
def migrated(server: PostgreSQL, clock: Clock) -> str:
    url = server.new_database()
    Registry.open(url, clock=clock).close()
    return url


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 1.0)
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 1.0)


def test_a_server_that_is_killed_is_unavailable_and_used_again_when_it_is_back(
    server: PostgreSQL, migrated: str, clock: Clock, hurried: None
) -> None:
    with closing(Registry.open(migrated, clock=clock)) as registry:
        registry.push("churn", None, DIGEST, who="ann", why="x")
        server.kill()
        for call in (registry.state_token, lambda: registry.push("churn", None, DIGEST, who="ann", why="x")):
            with pytest.raises(Unavailable) as refusal:
                call()
            assert refusal.value.retry_after
            assert "keelway-pg" not in refusal.value.message
        with pytest.raises(Unavailable):
            Registry.open(migrated, clock=clock)
        server.start()
        assert registry.push("churn", None, DIGEST, who="ann", why="x").version == "1.1.0"


def test_a_server_that_stops_in_the_middle_is_given_up(
    server: PostgreSQL, migrated: str, clock: Clock, hurried: None
) -> None:
    with closing(Registry.open(migrated, clock=clock)) as registry:
        registry.push("churn", None, DIGEST, who="ann", why="x")
        server.stop_answering()
        try:
            for call in (registry.state_token, lambda: registry.resolve("churn")):
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    call()
                assert time.monotonic() - began < 8
        finally:
            server.answer_again()
        assert registry.resolve("churn").version == "1.0.0"


@POSTGRESQL
def test_a_statement_that_takes_too_long_is_ended_by_the_server(
    registry: Registry, url: str, clock: Clock, hurried: None
) -> None:
    with closing(Registry.open(url, clock=clock)) as hasty:
        with pytest.raises(Unavailable), database.reading(hasty._engine) as connection:
            connection.exec_driver_sql("SELECT pg_sleep(60)")
        assert hasty.state_token() == 0


@POSTGRESQL
def test_a_process_that_stops_inside_a_change_does_not_lock_the_others_out(
    registry: Registry, url: str, clock: Clock, hurried: None
) -> None:
    with closing(Registry.open(url, clock=clock)) as stopped:

        def change() -> None:
            with database.writing(stopped._engine) as connection:
                lock(connection)
                time.sleep(2)
                assert registry.push("churn", None, DIGEST, who="ann", why="x").version == "1.0.0"
                connection.exec_driver_sql("UPDATE registry_state SET token = 99")

        with pytest.raises(Unavailable):
            change()
        assert registry.state_token() == 2


@POSTGRESQL
def test_a_process_has_one_pool_and_no_more_connections_than_that(registry: Registry, url: str) -> None:
    registry.push("churn", None, DIGEST, who="ann", why="x")
    together = Barrier(30)

    def ask(_: int) -> str:
        together.wait(20)
        return registry.resolve("churn").version

    with ThreadPoolExecutor(30) as threads:
        assert set(threads.map(ask, range(30))) == {"1.0.0"}
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keelway' AND datname = current_database()"
        )
        assert connection.exec_driver_sql(query).scalar_one() <= 10
    engine.dispose()
