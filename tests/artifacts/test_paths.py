from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.artifacts.paths import PathSet, appearing, check_relative, open_new, open_regular
from keelway.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable

HOSTILE = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "./x",
    "a//b",
    "a/",
    "C:/x",
    "C:x",
    "\\\\server\\share",
    "a\\b",
    "a\0b",
    "a\nb",
    "x.",
    "x ",
    "...",
    "a/. /b",
    "*/_ORT_MEM_ADDR_/*",
    "file?",
    "\udcff",
    "a" * 256,
    "/".join("a" * 17),
    "/".join(["a" * 200] * 6),
    "\x85",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_is_not_plainly_inside_is_refused(path: str) -> None:
    with pytest.raises(CorruptArtifact):
        check_relative(path)


@pytest.mark.parametrize("path", ["model.onnx", "a/b/c.bin", ".hidden", "..data", "models/größe.txt", "a b"])
def test_a_plain_relative_path_is_kept_as_it_is(path: str) -> None:
    assert check_relative(path) == path


@given(st.text(alphabet=st.sampled_from("./\\:aA \0*") | st.characters(), max_size=20))
def test_whatever_passes_stays_below_the_folder(path: str) -> None:
    try:
        check_relative(path)
    except CorruptArtifact:
        return
    assert not PurePosixPath(path).is_absolute()
    assert os.path.normpath("/base/" + path) == "/base/" + path
    assert str(PurePosixPath(path)) == path


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "a"),
        ("Model.onnx", "model.ONNX"),
        ("straße", "STRASSE"),
        ("café", "café"),
        ("a", "a/b"),
        ("a/b", "A"),
        ("a/b/c", "a/B"),
    ],
)
def test_two_files_that_may_be_one_on_another_disk_are_refused(first: str, second: str) -> None:
    paths = PathSet()
    paths.add_file(first)
    with pytest.raises(CorruptArtifact):
        paths.add_file(second)


def test_a_folder_may_come_twice_but_not_where_a_file_is() -> None:
    paths = PathSet()
    paths.add_folder("a/b")
    paths.add_folder("a/b")
    paths.add_file("a/b/c")
    with pytest.raises(CorruptArtifact):
        paths.add_file("a/b")
    with pytest.raises(CorruptArtifact):
        paths.add_folder("a/b/c")


def test_a_folder_appears_whole_and_private(tmp_path: Path) -> None:
    with appearing(tmp_path / "new" / "folder") as filling:
        (filling / "file").write_bytes(b"x")
        assert not (tmp_path / "new" / "folder").exists()
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == b"x"
    assert stat.S_IMODE((tmp_path / "new" / "folder").stat().st_mode) == 0o700


def test_a_folder_whose_filling_fails_never_appears_and_leaves_nothing(tmp_path: Path) -> None:
    def fill_and_fail() -> None:
        with appearing(tmp_path / "folder") as filling:
            (filling / "file").write_bytes(b"x")
            raise KeyError

    with pytest.raises(KeyError):
        fill_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_error_while_filling_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable), appearing(tmp_path / "folder"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"x")
    for taken in (tmp_path, tmp_path / "mine"):
        with pytest.raises(InvalidInput), appearing(taken):
            pass
    assert (tmp_path / "mine").read_bytes() == b"x"


def test_a_new_file_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        open_new(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_only_regular_files_are_opened_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path, Path("/dev/zero")):
        with pytest.raises(InvalidInput):
            open_regular(path)
    with pytest.raises(NotFound):
        open_regular(tmp_path / "missing")
