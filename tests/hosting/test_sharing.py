"""Folders that processes share: made once, verified by each, removed by the last, whoever dies. # T3 S5"""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.serving import PATIENCE, wait_until

from keelway.errors import CorruptArtifact, Unavailable
from keelway.hosting.sharing import SharedFolders


class Maker:
    """Writes one file, and counts."""

    def __init__(self, content: str = "weights") -> None:
        self.made = 0
        self._content = content

    def __call__(self, folder: Path) -> None:
        self.made += 1
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text(self._content)


def test_the_first_makes_it_and_the_last_removes_it(tmp_path: Path) -> None:
    make = Maker()
    first, leave_first = SharedFolders(tmp_path).open("a", make)
    second, leave_second = SharedFolders(tmp_path).open("a", make)
    assert first == second
    assert make.made == 1
    assert (first / "deep" / "file").read_text() == "weights"
    leave_first()
    assert (second / "deep" / "file").exists()
    leave_second()
    assert not first.exists()
    _, leave_third = SharedFolders(tmp_path).open("a", make)
    assert make.made == 2
    leave_third()


@pytest.mark.parametrize("damage", ["change", "remove", "add", "record"])
def test_what_is_not_as_it_was_made_is_made_again(tmp_path: Path, damage: str) -> None:
    make = Maker()
    folder, leave = SharedFolders(tmp_path).open("a", make)
    if damage == "change":
        (folder / "deep" / "file").write_text("WEIGHTS")
    elif damage == "remove":
        (folder / "deep" / "file").unlink()
    elif damage == "add":
        (folder / "other").touch()
    else:
        (folder.parent / "record.json").write_text("{")
    again, leave_again = SharedFolders(tmp_path).open("a", make)
    assert make.made == 2
    assert (again / "deep" / "file").read_text() == "weights"
    leave()
    assert again.exists()
    leave_again()


def test_a_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").touch()
        raise CorruptArtifact("the file differs from its manifest")

    with pytest.raises(CorruptArtifact):
        SharedFolders(tmp_path).open("a", make)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    _, leave = SharedFolders(tmp_path).open("a", Maker())
    leave()


def test_many_at_once_make_it_once(tmp_path: Path) -> None:
    make = Maker()
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: SharedFolders(tmp_path).open("a", make), range(8)))
    assert make.made == 1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: one[1](), opened))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_opening_and_leaving_in_any_order_never_takes_a_folder_from_its_user(tmp_path: Path) -> None:
    wrong: list[str] = []

    def work(_: int) -> None:
        for _ in range(20):
            folder, leave = SharedFolders(tmp_path).open("a", Maker())
            if (folder / "deep" / "file").read_text() != "weights":
                wrong.append("gone")
            leave()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert wrong == []


HOLDER = """
import sys, time
from pathlib import Path
from keelway.hosting.sharing import SharedFolders
SharedFolders(Path(sys.argv[1])).open("a", lambda folder: folder.mkdir())
print("held", flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_held_is_let_go(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout as stdout:
        assert stdout.readline() == b"held\n"
        folder, leave = SharedFolders(tmp_path).open("a", Maker())
        leave()
        assert folder.exists()  # the other one uses it
        holder.kill()
        holder.wait()
    _, leave = SharedFolders(tmp_path).open("a", Maker())
    leave()
    wait_until(lambda: not folder.exists(), "the folder to go")


def test_without_a_root_a_private_one_lives_as_long_as_it_is_needed() -> None:
    shared = SharedFolders()
    folder, leave = shared.open("a", Maker())
    other, leave_other = shared.open("b", Maker())
    root = folder.parents[1]
    assert other.parents[1] == root
    assert root.stat().st_mode & 0o777 == 0o700
    leave()
    assert root.exists()
    leave_other()
    assert not root.exists()


def test_leaving_after_the_supervisor_has_tidied_up_is_no_error(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    _, leave = SharedFolders(root).open("a", Maker())
    import shutil

    shutil.rmtree(root)
    leave()
    with pytest.raises(Unavailable):
        SharedFolders(root).open("a", Maker())
