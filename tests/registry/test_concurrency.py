# S6: concurrent pushes and promotions are safe. Real processes, one SQLite file or one PostgreSQL.
from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from tests.registry.conftest import SQLITE

from keelway.clock import Clock
from keelway.errors import FailedPrecondition, Unavailable
from keelway.registry import database
from keelway.registry.history import lock
from keelway.registry.store import Registry

DIGEST = "sha256:" + "0" * 64

PRELUDE = """
import os, signal, sys
from keelway.clock import SystemClock
from keelway.errors import FailedPrecondition
from keelway.registry.store import Registry

url, me = sys.argv[1:3]
DIGEST = "sha256:" + "0" * 64
sys.stdin.readline()  # all begin together
registry = Registry.open(url, clock=SystemClock())
"""

OPEN = PRELUDE + "print(registry.state_token())\n"

PUSH = (
    PRELUDE
    + """
for _ in range(10):
    print(registry.push("churn", None, DIGEST, who=me, why="race").version)
"""
)

PROMOTE = (
    PRELUDE
    + """
for _ in range(20):
    before = registry.resolve("churn", "champion").version
    after = "1.1.0" if before == "1.0.0" else "1.0.0"
    try:
        registry.set_alias("churn", "champion", after, who=me, why="race", expected_from=before)
        print(before, after)
    except FailedPrecondition:
        pass
"""
)

KILLED = (
    PRELUDE
    + """
from keelway.registry import entering, history, store

point = sys.argv[3]
if point == "after-version":
    entering._insert_policy = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
elif point == "after-history":
    store._point = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
registry.push("churn", None, DIGEST, who=me, why="killed")
"""
)


def together(program: str, url: str, count: int) -> list[list[str]]:
    """The lines each of ``count`` processes printed, all having begun at the same time."""
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [process.communicate(timeout=100)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0] * count
    return lines


def test_four_processes_open_an_empty_store_at_once(url: str, clock: Clock) -> None:
    assert together(OPEN, url, 4) == [["0"]] * 4
    with closing(Registry.open(url, clock=clock)) as registry:
        assert registry.models() == ()


def test_three_processes_push_into_an_empty_store_and_no_number_is_lost_or_given_twice(url: str, clock: Clock) -> None:
    pushed = together(PUSH, url, 3)
    versions = [f"1.{minor}.0" for minor in range(30)]
    assert (
        sorted((line for lines in pushed for line in lines), key=lambda version: int(version.split(".")[1])) == versions
    )
    with closing(Registry.open(url, clock=clock)) as registry:
        assert [row.version for row in registry.versions("churn")] == versions[::-1]
        entries = registry.history("churn")
        assert [entry.version for entry in entries if entry.action == "push"] == versions[::-1]
        assert [entry.action for entry in entries].count("alias") == 1
        assert registry.state_token() == len(entries) == 31


def test_of_promotions_decided_on_the_same_state_one_wins(url: str, clock: Clock) -> None:
    with closing(Registry.open(url, clock=clock)) as registry:
        for _ in range(2):
            registry.push("churn", None, DIGEST, who="ann", why="x")
        won = [tuple(line.split()) for lines in together(PROMOTE, url, 3) for line in lines]
        moves = [
            (entry.from_version, entry.to_version)
            for entry in reversed(registry.history("churn"))
            if entry.action == "alias" and entry.from_version
        ]
        # Each move starts where the one before ended, and each winner's move is told exactly once.
        assert sorted(moves) == sorted(won)
        assert [start for start, _ in moves] == ["1.0.0", *(end for _, end in moves[:-1])]
        assert registry.resolve("churn").version == moves[-1][1]


@pytest.mark.parametrize("point", ["after-version", "after-history"])
def test_a_push_killed_in_the_middle_leaves_nothing_visible(url: str, clock: Clock, point: str) -> None:
    command = [sys.executable, "-c", KILLED, url, "me", point]
    killed = subprocess.run(command, input="go\n", text=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with closing(Registry.open(url, clock=clock)) as registry:
        assert registry.models() == ()
        assert registry.history() == ()
        assert registry.state_token() == 0
        assert registry.push("churn", None, DIGEST, who="ann", why="again").version == "1.0.0"


def test_threads_share_one_registry(registry: Registry) -> None:
    def push(_: int) -> str:
        return registry.push("churn", None, DIGEST, who="ann", why="x").version

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(push, range(24)))
    assert len(set(versions)) == 24


def test_a_reader_is_not_held_up_by_a_writer(registry: Registry, url: str) -> None:
    registry.push("churn", None, DIGEST, who="ann", why="x")
    with database.writing(registry._engine) as connection:
        connection.exec_driver_sql("UPDATE registry_state SET token = 99")
        assert registry.resolve("churn").version == "1.0.0"
        assert registry.state_token() == 2


def test_a_writer_that_waits_too_long_is_told_that_it_is_busy(
    registry: Registry, url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.05)
    with closing(Registry.open(url, clock=clock)) as impatient, database.writing(registry._engine) as connection:
        lock(connection)
        with pytest.raises(Unavailable) as refusal:
            impatient.push("churn", None, DIGEST, who="ann", why="x")
        assert refusal.value.retry_after
        assert impatient.models() == ()


@SQLITE
def test_a_store_that_has_become_unreadable_is_unavailable(registry: Registry, url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    registry.close()
    for file in path.parent.iterdir():
        file.unlink()
    path.mkdir()
    with pytest.raises(Unavailable):
        registry.resolve("churn")
    with pytest.raises(Unavailable):
        registry.state_token()


def test_a_promotion_races_an_archive_and_no_alias_points_to_an_archived_version(url: str, clock: Clock) -> None:
    with closing(Registry.open(url, clock=clock)) as registry:
        for _ in range(2):
            registry.push("churn", None, DIGEST, who="ann", why="x")

        def promote(_: int) -> None:
            try:
                registry.set_alias("churn", "challenger", "1.1.0", who="ann", why="x")
                registry.remove_alias("churn", "challenger", who="ann", why="x")
            except FailedPrecondition:
                pass

        def archive(_: int) -> None:
            try:
                registry.archive("churn", "1.1.0", who="ann", why="x")
                assert all(alias.version != "1.1.0" for alias in registry.aliases("churn"))
                registry.restore("churn", "1.1.0", who="ann", why="x")
            except FailedPrecondition:
                pass

        with ThreadPoolExecutor(2) as pool:
            promoting = pool.submit(lambda: [promote(number) for number in range(25)])
            archiving = pool.submit(lambda: [archive(number) for number in range(25)])
            promoting.result()
            archiving.result()
