"""Paths that come from a manifest, an archive or a model file, and the private folders they are written to.

Pure checks on text plus one context manager that makes a folder appear whole or not at all. Nothing here reads a
file. Materialising, extracting and the confinement of ONNX external data call it.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from keelway.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable

MAX_FILES: Final = 10_000
MAX_DEPTH: Final = 16
MAX_PATH_BYTES: Final = 1024
MAX_NAME_BYTES: Final = 255

#: Separators and wildcards of some platform, drive letters and streams (``:``). ONNX Runtime also gives ``*/`` at the
#: start of a location a meaning of its own: an address in memory.
_FORBIDDEN: Final = frozenset('\\:*?"<>|')

_HINT: Final = "paths are relative, with forward slashes, and stay inside the folder"


def check_relative(path: str) -> str:
    """``path`` itself, if it is a plain relative path with forward slashes; ``CorruptArtifact`` otherwise.

    Refused: absolute paths, ``.`` and ``..``, empty names, backslashes, drives, wildcards, control characters, names
    that end in a dot or a space, text that is not UTF-8, and more than ``MAX_DEPTH`` names.
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise CorruptArtifact("a file's path is not UTF-8", hint=_HINT) from None
    if len(encoded) > MAX_PATH_BYTES:
        raise CorruptArtifact(f"a file's path is longer than {MAX_PATH_BYTES} bytes", hint=_HINT)
    if any(character in _FORBIDDEN or unicodedata.category(character) == "Cc" for character in path):
        raise CorruptArtifact("a file's path has a character that no path may have", hint=_HINT)
    names = path.split("/")
    if len(names) > MAX_DEPTH:
        raise CorruptArtifact(f"a file lies more than {MAX_DEPTH} folders deep", hint=_HINT)
    for name in names:
        # That covers "." and "..", the ways out; elsewhere a dot or a space at the end is dropped without a word.
        if not name or name[-1] in ". " or len(name.encode()) > MAX_NAME_BYTES:
            raise CorruptArtifact("a file's path does not stay inside its folder", hint=_HINT)
    return path


class PathSet:
    """The files and folders of one artifact so far; refuses what would overwrite, or shadow, what is there.

    Names are compared after Unicode normalisation and case folding, because the folder may lie on a file system that
    does not tell them apart.
    """

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add_file(self, path: str) -> None:
        """Check ``path`` and remember it. Raises ``CorruptArtifact``."""
        folded = _fold(check_relative(path))
        if folded in self._files or folded in self._folders:
            raise CorruptArtifact("two paths of the artifact are the same", hint="names may not differ in case only")
        self._files.add(folded)
        self._add_parents(folded)
        if len(self._files) > MAX_FILES:
            raise CorruptArtifact(f"the artifact has more than {MAX_FILES} files")

    def add_folder(self, path: str) -> None:
        """Check the path of a folder and remember it; the same folder may come twice. Raises ``CorruptArtifact``."""
        self._add_parents(_fold(check_relative(path)) + "/")
        if len(self._folders) > MAX_FILES:
            raise CorruptArtifact(f"the artifact has more than {MAX_FILES} folders")

    def _add_parents(self, folded: str) -> None:
        end = folded.rfind("/")
        while end > 0:
            parent = folded[:end]
            if parent in self._files:
                raise CorruptArtifact("a path of the artifact is both a file and a folder")
            if parent in self._folders:
                return
            self._folders.add(parent)
            end = folded.rfind("/", 0, end)


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A private (0700) folder to fill, which takes the name ``folder`` when the block ends and vanishes if it raises.

    ``folder`` must be absent or empty: ``InvalidInput`` otherwise. A killed process leaves at most a folder whose name
    starts with a dot beside it, never a half-filled ``folder``. Disk errors of the block are ``Unavailable``.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise InvalidInput("the target folder is not empty", field="folder", hint="name a new or an empty folder")
        filling = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise Unavailable("the target folder cannot be written", hint=_disk_hint(error)) from error
    try:
        yield filling
        filling.rename(folder)
    except OSError as error:
        raise Unavailable("the target folder cannot be written", hint=_disk_hint(error)) from error
    finally:
        # After the rename this name is gone; before it, nothing may be left.
        shutil.rmtree(filling, ignore_errors=True)


def make_parents(root: Path, relative: str) -> Path:
    """``root / relative``, with the folders between them made private (0700). ``relative`` has been checked."""
    target = root / relative
    missing = [parent for parent in target.relative_to(root).parents if not (root / parent).exists()]
    for parent in reversed(missing):
        (root / parent).mkdir(mode=0o700)
    return target


def open_new(path: Path) -> IO[bytes]:
    """A file (0600) opened for writing, which must not exist yet; the kernel refuses a link in its place."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def open_regular(path: Path) -> IO[bytes]:
    """A regular file opened for reading. A link, a device, a pipe or a folder is ``InvalidInput``, and none of
    them is ever waited for; a missing file is ``NotFound``."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer. It changes nothing for regular files.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound("there is no such file", field="path") from None
    except OSError as error:
        raise InvalidInput("the file is a link or cannot be read", field="path", hint="name a regular file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput("this is not a regular file", field="path", hint="name a regular file")
    return os.fdopen(descriptor, "rb")


def _disk_hint(error: OSError) -> str:
    return f"the system says: {os.strerror(error.errno)}" if error.errno else "check its rights and the free space"
