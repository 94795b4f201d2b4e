"""A registry in a new SQLite file and in a new PostgreSQL database, with a clock that is moved by hand: what is tested
here holds for both, unless a test is marked with ``SQLITE`` or ``POSTGRESQL``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.postgresql import PostgreSQL

from keelway.registry.store import Registry

SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


class HandClock:
    """Moves by one second with each look, so that no two changes are simultaneous."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.123456

    def now(self) -> float:
        self.seconds += 1
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(scope="session")
def file_at_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("at-head") / "registry.db"
    Registry.open(f"sqlite:///{file}", clock=HandClock()).close()
    return file


@pytest.fixture(scope="session")
def database_at_head(shared_postgresql: PostgreSQL) -> str:
    url = shared_postgresql.new_database()
    Registry.open(url, clock=HandClock()).close()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database; where a ``registry`` is opened there, of a copy of one at head, which takes less time than
    the migrations do."""
    at_head = "registry" in request.fixturenames
    if request.param == "sqlite":
        file = tmp_path / "store" / "registry.db"
        if at_head:
            file.parent.mkdir()
            shutil.copy(request.getfixturevalue("file_at_head"), file)
        return f"sqlite:///{file}"
    server: PostgreSQL = request.getfixturevalue("shared_postgresql")
    return server.new_database(request.getfixturevalue("database_at_head") if at_head else None)


@pytest.fixture
def registry(url: str, clock: HandClock) -> Iterator[Registry]:
    with closing(Registry.open(url, clock=clock)) as opened:
        yield opened
