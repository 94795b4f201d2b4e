"""The blob store: bytes under the name of their own SHA-256, in a folder, in memory or in an object store.

It knows nothing of models or manifests. Nothing is ever visible half-written, nothing is handed out unverified, and
memory use does not depend on the size of a file. Materialising and publishing call it; fsspec does the talking.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol

from keelway.artifacts.manifest import FileEntry
from keelway.artifacts.paths import open_new, open_regular
from keelway.clock import Clock, SystemClock
from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, KeelwayError, NotFound, Unavailable

#: What is read and hashed at a time, and what is written at a time: in larger pieces, writing a file may take Linux
#: several times as long.
_CHUNK: Final = 1024 * 1024
_PIECE: Final = 256 * 1024
#: What is read at a time of a store elsewhere, where each piece is a request.
_RANGE: Final = 4 * 1024 * 1024
#: A blob that has been there for longer is written again when it is put, so that it is as new as what refers to it:
#: whoever removes old blobs that nothing refers to cannot take one that is just being pushed.
REFRESH_SECONDS: Final = 600.0
#: Seconds that an object store may take to answer, where nothing else is said. It is tried twice more.
_S3_TIMEOUTS: Final = {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 3, "mode": "standard"}}

_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.ASCII)
#: Of an upload that has not ended.
_UPLOAD: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class FileSystem(Protocol):
    """The part of ``fsspec.AbstractFileSystem`` that a blob store needs."""

    def info(self, path: str) -> dict[str, Any]: ...

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes: ...

    def open(self, path: str, mode: str) -> IO[bytes]: ...

    def mv(self, path1: str, path2: str) -> None: ...

    def rm_file(self, path: str) -> None: ...

    def find(self, path: str, *, detail: bool) -> dict[str, dict[str, Any]]: ...


class Stored(NamedTuple):
    """Something in the store: the blob ``digest``, or with ``None`` an upload that did not end. ``modified`` is in
    seconds since the Unix epoch, infinite if the store does not say."""

    key: str
    digest: str | None
    size: int
    modified: float


class BlobStore:
    """Content-addressed bytes under ``<root>/sha256/ab/cdef…``. Safe to share between threads and between processes.

    A digest is 64 lower-case hex digits, with or without ``sha256:`` in front. Every method raises ``Unavailable`` if
    the store does not answer and ``CorruptArtifact`` for a malformed digest.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        root: str,
        *,
        local: bool,
        clock: Clock = SystemClock(),  # noqa: B008 - stateless
    ) -> None:
        """``local``: the file system is this machine's, so that what is written can be forced to the disk."""
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._local = local
        self._clock = clock

    @classmethod
    def open(cls, url: str | Path, **options: Any) -> BlobStore:
        """The store at ``url``: a folder's path, ``file://…``, ``memory://…``, or any other URL fsspec knows.

        ``options`` go to fsspec's file system (credentials, endpoint, timeouts). A folder is made when first written.
        Raises ``InvalidInput`` for an unknown kind of URL, ``FailedPrecondition`` if the package for it is missing.
        """
        text = str(url)
        local = "://" not in text or text.startswith("file://")
        try:
            if local:
                from fsspec.implementations.local import LocalFileSystem

                filesystem: FileSystem = LocalFileSystem(auto_mkdir=True)
                return cls(filesystem, str(Path(text.removeprefix("file://")).absolute()), local=True)
            from fsspec.core import url_to_fs

            if text.startswith(("s3://", "s3a://")):
                options.setdefault("config_kwargs", _S3_TIMEOUTS)
            # Another process may have added a blob: a remembered listing would hide it.
            filesystem, root = url_to_fs(text, use_listings_cache=False, **options)
        except ImportError as error:
            raise FailedPrecondition(
                "the package for this kind of artifact store is not installed",
                field="artifacts",
                hint='install the fsspec implementation for it, for s3:// e.g. pip install "keelway[s3]"',
            ) from error
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                "this is not the address of an artifact store",
                field="artifacts",
                hint="give a folder, or a URL such as s3://bucket/prefix",
            ) from error
        return cls(filesystem, root, local=False)

    def put_file(self, path: Path) -> FileEntry:
        """Store a regular file; answers its name, SHA-256 and size. Storing the same content again changes nothing.

        A link, a device or a pipe is ``InvalidInput``. A file that changes meanwhile is stored as it was read.
        """
        with open_regular(path) as file:
            if not self._local:  # reading twice costs less than an upload that was not needed
                digest, size = _hash(_chunks(file))
                if self._holds(digest, size):
                    return FileEntry(path=path.name, sha256=digest, size=size)
                file.seek(0)
            digest, size = self._write(_chunks(file))
        return FileEntry(path=path.name, sha256=digest, size=size)

    def put_bytes(self, data: bytes) -> str:
        """Store ``data``; answers its digest with ``sha256:`` in front."""
        digest = hashlib.sha256(data).hexdigest()
        if not self._holds(digest, len(data)):
            self._write([data])
        return "sha256:" + digest

    def exists(self, digest: str) -> bool:
        """Whether the store has a blob of that name. Its content is verified when it is read, not here."""
        return self._size(_hex(digest)) is not None

    def read(self, digest: str, limit: int = 64 * 1024 * 1024) -> bytes:
        """The verified bytes of a small blob.

        Raises ``NotFound`` if there is none, ``CorruptArtifact`` if it does not hash to its name or passes ``limit``
        bytes.
        """
        name = _hex(digest)
        chunks: list[bytes] = []
        hasher = hashlib.sha256()
        size = 0
        for chunk in self._read(name):
            size += len(chunk)
            if size > limit:
                raise CorruptArtifact(f"a stored blob is larger than {limit} bytes")
            hasher.update(chunk)
            chunks.append(chunk)
        if hasher.hexdigest() != name:
            raise _differs()
        return b"".join(chunks)

    def fetch(self, digest: str, destination: Path, size: int) -> None:
        """Copy a blob of ``size`` bytes to the new file ``destination`` (mode 0600), hashing what is written.

        Raises ``CorruptArtifact`` if size or hash differ, ``NotFound`` if there is no such blob, ``InvalidInput`` if
        ``destination`` exists; then, and on any other error, ``destination`` is not left behind.
        """
        name = _hex(digest)
        try:
            target = open_new(destination)
        except FileExistsError:
            raise InvalidInput("the file to write exists already", field="destination") from None
        except OSError as error:
            raise Unavailable("the copy of a model file cannot be written") from error
        try:
            with target:
                self._copy(name, target, size)
        except BaseException as error:
            destination.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise Unavailable("the copy of a model file cannot be written", hint="is the disk full?") from error
            raise

    def stored(self) -> Iterator[Stored]:
        """Everything in the store, unfinished uploads too, in no order. What lies deeper is of another store, or of
        somebody else, whose folder is within this one."""
        with _answering():
            try:
                found = self._filesystem.find(self._root, detail=True)
            except FileNotFoundError:
                found = {}
        for key, info in found.items():
            digest: str | None = None
            match key.removeprefix(f"{self._root}/").split("/"):
                case ["sha256", first, rest] if _DIGEST.fullmatch(first + rest):
                    digest = first + rest
                case ["incoming", name] if _UPLOAD.fullmatch(name):
                    pass
                case _:
                    continue
            yield Stored(key, digest, int(info["size"] or 0), _modified(info))

    def remove(self, item: Stored, older_than: float) -> bool:
        """Remove ``item`` unless it was written again since ``older_than``; whether it was there and is gone now."""
        with _answering():
            try:
                if _modified(self._filesystem.info(item.key)) >= older_than:
                    return False
                self._filesystem.rm_file(item.key)
            except FileNotFoundError:
                return False
        return True

    def check(self, digest: str, size: int) -> None:
        """Read a blob of ``size`` bytes to its end. Raises as ``fetch`` does."""
        self._copy(_hex(digest), None, size)

    def _copy(self, name: str, target: IO[bytes] | None, size: int) -> None:
        # A blob that has grown must not fill the disk.
        if _hash(_no_more(self._read(name), size), target) != (name, size):
            raise _differs()

    def _key(self, name: str) -> str:
        return f"{self._root}/sha256/{name[:2]}/{name[2:]}"

    def _info(self, name: str) -> dict[str, Any] | None:
        with _answering():
            try:
                info = self._filesystem.info(self._key(name))
            except FileNotFoundError:
                return None
        return info if isinstance(info["size"], int) and info["type"] == "file" else None

    def _size(self, name: str) -> int | None:
        info = self._info(name)
        return None if info is None else int(info["size"])

    def _holds(self, name: str, size: int) -> bool:
        """Whether the blob is there in full, and new enough; one cut short by a damaged disk is written again."""
        info = self._info(name)
        return info is not None and info["size"] == size and _modified(info) > self._clock.now() - REFRESH_SECONDS

    def _read(self, name: str) -> Iterator[bytes]:
        """The unverified bytes of a blob, in ranges: no open handle, whose position other readers could share."""
        size = self._size(name)
        if size is None:
            raise NotFound("a model file is missing from the artifact store", hint="push the model again")
        step = _CHUNK if self._local else _RANGE
        for start in range(0, size, step):
            with _answering():
                chunk = self._filesystem.cat_file(self._key(name), start=start, end=min(start + step, size))
            yield chunk

    def _write(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Stream to a temporary key while hashing, then rename: the name of a blob appears with all its bytes."""
        temporary = f"{self._root}/incoming/{secrets.token_hex(16)}"
        with _answering():
            try:
                with self._filesystem.open(temporary, "wb") as target:
                    digest, size = _hash(chunks, target)
                    if self._local:
                        target.flush()
                        os.fsync(target.fileno())
                if self._local and self._holds(digest, size):
                    self._filesystem.rm_file(temporary)
                else:
                    self._move(temporary, self._key(digest))
            except BaseException:
                with suppress(Exception):  # the first error is the one to report
                    self._filesystem.rm_file(temporary)
                raise
        return digest, size

    def _move(self, temporary: str, key: str) -> None:
        self._filesystem.mv(temporary, key)
        if self._local:
            # The new name itself survives a power cut only once its folder is on the disk.
            descriptor = os.open(Path(key).parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _modified(info: dict[str, Any]) -> float:
    """When a file was written last, as far as its file system says: in a folder, in S3, in memory."""
    when = info.get("mtime") or info.get("LastModified") or info.get("created")
    if isinstance(when, datetime):
        return when.timestamp()
    return float(when) if isinstance(when, int | float) else float("inf")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _no_more(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """``chunks``, as long as they are ``size`` bytes or fewer. Else ``CorruptArtifact``."""
    for chunk in chunks:
        size -= len(chunk)
        if size < 0:
            raise _differs()
        yield chunk


def _hash(chunks: Iterable[bytes], target: IO[bytes] | None = None) -> tuple[str, int]:
    """SHA-256 and size of all chunks, which are written to ``target`` while another thread hashes: either releases the
    interpreter, and together they take as long as the slower one."""
    hasher = hashlib.sha256()
    size = 0
    with ThreadPoolExecutor(1) as beside:
        hashing: Future[None] | None = None
        for chunk in chunks:
            if hashing is not None:
                hashing.result()
            hashing = beside.submit(hasher.update, chunk)
            size += len(chunk)
            if target is not None:
                for start in range(0, len(chunk), _PIECE):
                    target.write(memoryview(chunk)[start : start + _PIECE])
    return hasher.hexdigest(), size


def _hex(digest: str) -> str:
    """The 64 hex digits of a digest. Checked because they become part of a path."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise CorruptArtifact("this is not a SHA-256 digest", hint="64 lower-case hex digits")
    return match[1]


def _differs() -> CorruptArtifact:
    return CorruptArtifact("a model file differs from what was pushed", hint="push the model again")


@contextmanager
def _answering() -> Iterator[None]:
    """Whatever a store's own library raises means that the store did not answer; the cause stays in the log."""
    try:
        yield
    except KeelwayError:
        raise
    except Exception as error:
        raise Unavailable(
            "the artifact store does not answer", hint="check its address, rights and free space", retry_after=1.0
        ) from error
