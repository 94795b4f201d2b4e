"""Every model with its versions and aliases, as the registry and a quick look at its file tell them. # S4"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.registry.conftest import SQLITE
from tests.registry.test_migration import at_revision

from keelway.registry.listing import glance
from keelway.registry.store import Registry


def push(registry: Registry, name: str, *numbers: str) -> None:
    for content, number in enumerate(numbers):
        registry.push(name, number, f"sha256:{content:064x}", who="ann", why="x")


@pytest.fixture
def file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def test_everything_is_listed_in_a_fixed_number_of_queries(registry: Registry) -> None:
    assert registry.listing() == ()
    for name in ("price", "churn", "empty-handed"):
        push(registry, name, "1.10.0", "1.9.0", "2.0.0-rc.1")
    registry.remove_alias("empty-handed", "champion", who="ann", why="x")
    registry.set_alias("churn", "blue", "1.9.0", who="ann", why="x")
    queries: list[str] = []
    sa.event.listen(registry._engine, "before_cursor_execute", lambda *arguments: queries.append(arguments[2]))
    listed = registry.listing()
    assert len([query for query in queries if query.startswith("SELECT")]) == 3
    assert [model.name for model in listed] == ["churn", "empty-handed", "price"]
    for model in listed:
        assert [*model.versions.items()] == [(one.version, one.model_digest) for one in registry.versions(model.name)]
        assert model.aliases == {alias.alias: alias.version for alias in registry.aliases(model.name)}


@SQLITE
def test_a_glance_at_the_file_sees_what_the_registry_does(registry: Registry, file: Path) -> None:
    assert glance(file) == ()
    push(registry, "price", "1.10.0", "1.9.0", "2.0.0-rc.1")
    push(registry, "churn", "1.0.0")
    registry.set_alias("price", "blue", "1.9.0", who="ann", why="x")
    listed = glance(file)
    assert listed == registry.listing()
    assert [list(model.versions) for model in listed] == [["1.0.0"], ["2.0.0-rc.1", "1.10.0", "1.9.0"]]


@SQLITE
def test_a_glance_does_not_wait_for_a_writer(registry: Registry, file: Path) -> None:
    push(registry, "price", "1.0.0")
    with closing(sqlite3.connect(file)) as writing:
        writing.execute("BEGIN EXCLUSIVE")
        writing.execute("DELETE FROM aliases")
        assert glance(file) == registry.listing()
        assert registry.listing()[0].aliases == {"champion": "1.0.0"}


@SQLITE
def test_a_glance_leaves_an_older_database_to_the_registry(url: str, file: Path) -> None:
    at_revision(url, "0003").dispose()
    assert glance(file) is None


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 500], ids=["none", "empty", "other"])
def test_a_glance_makes_nothing_of_a_file_that_is_no_registry(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "what? 100%.db"
    if content is not None:
        file.write_bytes(content)
    assert glance(file) is None
    assert (file.read_bytes() if file.exists() else None) == content
