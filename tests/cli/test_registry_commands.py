"""``keelway alias``, ``rollback``, ``archive``, ``restore`` and ``history`` as a user meets them. # S4 S6"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.cli.conftest import Keelway

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.signing import SigningKey
from keelway.clock import SystemClock
from keelway.registry.store import Registry

pytestmark = pytest.mark.usefixtures("in_one_process")

COMMANDS = ("rollback", "archive", "restore", "history", "gc", "alias set", "alias list", "alias remove")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Three versions of ``churn``; the champion is 1.1.0."""
    with closing(Registry.open(f"sqlite:///{tmp_path}/.keelway/registry.db", clock=SystemClock())) as opened:
        for number in range(3):
            opened.push("churn", None, f"sha256:{number:064x}", who="ann", why="new data")
        opened.set_alias("churn", "champion", "1.1.0", who="ann", why="better")
        yield opened


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    key = SigningKey.generate()
    (tmp_path / "key.pem").write_text(key.private_pem())
    (tmp_path / "key.pub.pem").write_text(key.public_pem())
    return tmp_path


def tamper(home: Path, statement: str) -> None:
    with closing(sqlite3.connect(home / ".keelway" / "registry.db")) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(keelway: Keelway, command: str) -> None:
    ran = keelway(*command.split(), "--help")
    assert (ran.code, "Examples:" in ran.out, f"keelway {command}" in ran.out) == (0, True, True)


def test_a_rollback_moves_the_alias_back(keelway: Keelway, registry: Registry) -> None:
    ran = keelway("rollback", "churn", "--why", "complaints")
    assert (ran.code, ran.out) == (0, "champion of churn is back at 1.0.0 (was 1.1.0)\n")
    # Its files are gone, which is no reason to stay where one is.
    assert ran.err == "· whether that breaks callers of 1.1.0 cannot be told: the artifact store was not read\n"
    again = keelway("rollback", "churn")
    assert (again.code, again.err.count("\n"), "nowhere before" in again.err) == (1, 1, True)
    registry.set_alias("churn", "champion", "1.2.0", who="ann", why="x")
    document = json.loads(keelway("rollback", "churn", "--json").out)
    assert document == {"model": "churn", "alias": "champion", "version": "1.0.0", "from": "1.2.0", "breaks": None}
    assert "champion: 1.2.0 → 1.0.0 (rolled back)" in keelway("history", "churn").out
    assert "no such alias" in keelway("rollback", "churn", "--alias", "mine").err


def test_aliases_are_set_listed_and_removed(keelway: Keelway, registry: Registry) -> None:
    assert keelway("alias", "set", "churn@1.2.0", "challenger").out == "challenger of churn is now 1.2.0\n"
    assert json.loads(keelway("alias", "set", "churn@1.2.0", "mine", "--json").out)["version"] == "1.2.0"
    assert json.loads(keelway("alias", "list", "churn", "--json").out)["aliases"] == {
        "champion": "1.1.0",
        "challenger": "1.2.0",
        "mine": "1.2.0",
    }
    assert "challenger\t1.2.0" in keelway("alias", "list", "churn").out
    assert keelway("alias", "remove", "churn", "mine").out == "mine of churn is removed\n"
    assert json.loads(keelway("alias", "remove", "churn", "challenger", "--json").out)["version"] is None
    registry.remove_alias("churn", "champion", who="ann", why="x")
    assert "no aliases; set one" in keelway("alias", "list", "churn").out


def test_the_champion_is_promoted_and_a_version_has_to_be_named(keelway: Keelway, registry: Registry) -> None:
    ran = keelway("alias", "set", "churn@1.2.0", "champion")
    assert (ran.code, "keelway promote churn@1.2.0" in ran.err) == (1, True)
    ran = keelway("alias", "remove", "churn", "champion")
    assert (ran.code, "cannot be removed" in ran.err) == (1, True)
    assert registry.resolve("churn").version == "1.1.0"
    for arguments in (("alias", "set", "churn", "mine"), ("archive", "churn"), ("restore", "churn@champion")):
        ran = keelway(*arguments)
        assert (ran.code, "say which version" in ran.err) == (1, True)


def test_a_version_is_archived_and_restored(keelway: Keelway, registry: Registry) -> None:
    assert keelway("archive", "churn@1.2.0").out == "churn 1.2.0 is archived\n"
    assert "archived" in keelway("promote", "churn@1.2.0", "--force").err
    assert json.loads(keelway("restore", "churn@1.2.0", "--json").out)["state"] == "available"
    ran = keelway("archive", "churn@1.1.0")
    assert (ran.code, "move champion first" in ran.err) == (1, True)


def test_the_history_is_shown_newest_first(keelway: Keelway, registry: Registry) -> None:
    shown = keelway("history").out.splitlines()
    assert shown[1].split("\t")[2:] == ["ann", "churn", "champion: 1.0.0 → 1.1.0", "better"]
    assert len(shown) == 6
    listed = json.loads(keelway("history", "churn", "--limit", "2", "--json").out)["history"]
    assert [entry["action"] for entry in listed] == ["alias", "push"]
    assert "no such model" in keelway("history", "nobody").err


def test_a_history_without_an_entry_says_so(keelway: Keelway) -> None:
    assert keelway("history").out == "nothing has happened yet\n"


def test_a_sound_history_is_verified(keelway: Keelway, registry: Registry) -> None:
    ran = keelway("history", "churn", "--verify")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "the history is as it was written: 5 entries")
    document = json.loads(keelway("history", "--verify", "--json").out)
    assert (document["sound"], document["entries"], document["findings"]) == (True, 5, [])
    assert keelway("history", "nobody", "--verify").code == 1


def test_a_changed_history_ends_with_exit_code_one(keelway: Keelway, registry: Registry, tmp_path: Path) -> None:
    tamper(tmp_path, "UPDATE history SET why = 'forged' WHERE id = 3")
    ran = keelway("history", "churn", "--verify")
    assert (ran.code, "3\tit was changed after it was written" in ran.out) == (1, True)
    assert "not as it was written" in ran.err
    document = json.loads(keelway("history", "--verify", "--json").out)
    assert (document["sound"], document["findings"][0]["entry"]) == (False, 3)


def test_a_history_cut_off_is_found_by_a_head_that_was_kept(keelway: Keelway, registry: Registry, keys: Path) -> None:
    said = keelway("history", "--anchor", "heads.jsonl", "--sign", "key.pem")
    assert (said.code, "anchored 5 entries" in said.out) == (0, True)
    assert (
        json.loads(keelway("history", "--anchor", "heads.jsonl", "--sign", "key.pem", "--json").out)["head"]["id"] == 5
    )
    verify = ("history", "--verify", "--against", "heads.jsonl", "--trusted", "key.pub.pem")
    assert ", and 2 anchors agree" in keelway(*verify).out
    registry.set_alias("churn", "mine", "1.0.0", who="ann", why="x")
    registry.remove_alias("churn", "mine", who="ann", why="x")
    keelway("history", "--anchor", "heads.jsonl", "--sign", "key.pem")
    tamper(keys, "DELETE FROM history WHERE id > 5")
    tamper(keys, "UPDATE registry_state SET token = 5")
    assert keelway("history", "--verify").code == 0
    ran = keelway(*verify)
    assert (ran.code, "the history was cut" in ran.out) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--anchor", "heads.jsonl"),
        ("--verify", "--against", "heads.jsonl"),
        ("--against", "heads.jsonl", "--trusted", "key.pub.pem"),
        ("--verify", "--against", "missing", "--trusted", "key.pub.pem"),
        ("--anchor", "heads.jsonl", "--sign", "key.pub.pem"),
        ("--anchor", "no/such/folder", "--sign", "key.pem"),
    ],
)
def test_what_an_anchor_needs_is_said_in_one_line(
    keelway: Keelway, registry: Registry, keys: Path, arguments: tuple[str, ...]
) -> None:
    ran = keelway("history", *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)


def test_files_that_nothing_refers_to_are_collected(keelway: Keelway, trained: Path) -> None:  # S6
    push = ("push", "buyers", "model.joblib", "--sample", "sample.csv", "--target", "bought", "--trust-pickle")
    for version in ("1.0.0", "1.1.0"):
        assert keelway(*push, "--version", version).code == 0
    BlobStore.open(trained / ".keelway" / "artifacts").put_bytes(b"an orphan")
    told = json.loads(keelway("gc", "--grace", "0s", "--dry-run", "--json").out)
    assert (told["blobs"], told["bytes"], told["versions"], told["dry_run"]) == (1, 9, [], True)
    assert "1 files with 9 bytes would be removed" in keelway("gc", "--grace", "0s", "--dry-run").out
    assert "0 files with 0 bytes removed" in keelway("gc").out
    assert "1 files with 9 bytes removed" in keelway("gc", "--grace", "0s", "--why", "full").out
    assert "removed 1 files, 9 bytes\tfull" in keelway("history").out
    keelway("archive", "buyers@1.1.0")
    ran = keelway("gc", "--grace", "0s", "--archived")
    # Both versions are the same model: while one is available, its files stay, and so the other keeps them.
    assert (ran.code, "without its files" in ran.out) == (0, False)
    assert keelway("restore", "buyers@1.1.0").code == 0
    assert "is no time" in keelway("gc", "--grace", "soon").err
