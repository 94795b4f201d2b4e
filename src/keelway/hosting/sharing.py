"""Folders that several processes load the same model from, so that its weights are in memory once.

A folder is made by the first process that wants it, verified by the digests of its files by each that finds it, and
removed by the last that leaves it. What a process holds ends with it, however it ends: the locks are the kernel's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from keelway.errors import Unavailable

_RECORD: Final = "record.json"
_FILES: Final = "files"


class _Record(msgspec.Struct, frozen=True):
    """SHA-256 of every file, by its path."""

    files: dict[str, str]


class SharedFolders:
    """``root`` is a private folder that is removed by whoever made it; without one, one is made for as long as it is
    needed."""

    def __init__(self, root: Path | None = None) -> None:
        self._given = root
        self._own: Path | None = None
        self._held = 0
        self._count = threading.Lock()

    def open(self, name: str, make: Callable[[Path], None]) -> tuple[Path, Callable[[], None]]:
        """The folder ``name``, and what to call when it is not needed any more. ``make`` fills it, given an empty
        folder, if no other process has, or if what is found is not what was made. One process at a time makes anything.

        Raises what ``make`` raises, and ``Unavailable`` if the disk fails."""
        root = self._enter()
        try:
            with _locked(root / "making.lock"):
                place = root / name
                if not _is_whole(place):
                    _made(place, make)
                using = os.open(place.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(using, fcntl.LOCK_SH)
        except OSError as error:
            self._exit()
            raise Unavailable(f"the folder that workers share cannot be used: {error.strerror}") from error
        except BaseException:
            self._exit()
            raise
        return place / _FILES, lambda: self._leave(root, place, using)

    def _leave(self, root: Path, place: Path, using: int) -> None:
        try:
            with _locked(root / "making.lock"):
                try:
                    fcntl.flock(using, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return  # another process uses it
                shutil.rmtree(place, ignore_errors=True)
                place.with_suffix(".lock").unlink(missing_ok=True)
        except FileNotFoundError:
            return  # all of it is gone, with the supervisor
        finally:
            os.close(using)
            self._exit()

    def _enter(self) -> Path:
        with self._count:
            self._held += 1
            if self._given is None and self._own is None:
                self._own = Path(tempfile.mkdtemp(prefix="keelway-"))
            return self._given or self._own  # type: ignore[return-value]

    def _exit(self) -> None:
        with self._count:
            self._held -= 1
            if self._held == 0 and self._own is not None:
                shutil.rmtree(self._own, ignore_errors=True)
                self._own = None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _made(place: Path, make: Callable[[Path], None]) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    try:
        make(place / _FILES)
        record = _Record({path: _digest(place / _FILES / path) for path in _paths(place / _FILES)})
        (place / _RECORD).write_bytes(msgspec.json.encode(record))
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _is_whole(place: Path) -> bool:
    """Whether the folder holds what was made, to the byte. Others may tidy up where temporary files are kept."""
    try:
        record = msgspec.json.decode((place / _RECORD).read_bytes(), type=_Record)
        files = place / _FILES
        return _paths(files) == sorted(record.files) and all(
            _digest(files / path) == digest for path, digest in record.files.items()
        )
    except (OSError, msgspec.DecodeError):
        return False


def _paths(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
