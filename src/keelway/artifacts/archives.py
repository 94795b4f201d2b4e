"""Archives from outside, unpacked with suspicion: zip, tar and gzip-compressed tar into a private folder.

Every cap acts on the bytes that really come out, never on what a header says. Links, devices, paths that leave the
folder and names that collide are refused, and a refusal leaves nothing behind. An archive inside an archive is left
as the file it is. ``keelway push`` calls it; nothing here looks into the files.
"""

from __future__ import annotations

import errno
import gzip
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from keelway.artifacts.paths import MAX_FILES, PathSet, appearing, make_parents, open_new, open_regular
from keelway.errors import CorruptArtifact, InvalidInput, KeelwayError

_CHUNK: Final = 1024 * 1024
_BLOCK: Final = 512
#: The zip directory, or the extended header of one tar entry, is read at once; so it is bounded.
_MAX_ZIP_DIRECTORY: Final = 4 * 1024 * 1024
_MAX_TAR_HEADER: Final = 64 * 1024
#: A small archive may well be one long run of zeros: the ratio counts beyond this.
_RATIO_FREE_BYTES: Final = 16 * 1024 * 1024

#: Extended headers that may precede one tar entry; writers use one or two.
_MAX_TAR_EXTENSIONS: Final = 8

_ZIP_ENCRYPTED: Final = 0x1


class ArchiveLimits(msgspec.Struct, frozen=True):
    """``total_bytes`` and ``entries`` cap what comes out; ``ratio`` caps it as a multiple of the archive's own size."""

    total_bytes: int = 8 * 1024**3
    entries: int = MAX_FILES
    ratio: int = 200


DEFAULT_LIMITS: Final = ArchiveLimits()


def extract(archive: Path, folder: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
    """Unpack a .zip, .tar, .tar.gz or .tgz (told by content, not by name) into ``folder``, absent or empty before.

    Files become 0600, folders 0700, whatever the archive says; times, owners and empty folders are dropped. Raises
    ``CorruptArtifact`` for a damaged or hostile archive or a cap passed, ``InvalidInput`` for a file that is no such
    archive or a ``folder`` in use, ``NotFound`` if there is no archive, ``Unavailable`` if the disk fails.
    """
    with open_regular(archive) as file, appearing(folder) as filling:
        budget = _Budget(limits, file.seek(0, 2))
        file.seek(0)
        magic = file.read(_BLOCK)
        file.seek(0)
        if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            _extract_zip(file, _Target(filling), budget)
        elif magic[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
                _extract_tar(unzipped, _Target(filling), budget)
        elif is_tar_header(magic):
            _extract_tar(file, _Target(filling), budget)
        else:
            raise InvalidInput("this is not an archive", field="path", hint="give a .zip, .tar, .tar.gz or .tgz file")


def zip_names(file: IO[bytes]) -> tuple[str, ...]:
    """The entry names of a zip archive, without unpacking anything. Raises ``CorruptArtifact`` for a damaged one."""
    with _damage_refused(), zipfile.ZipFile(_BoundedReads(file)) as opened:
        return tuple(opened.namelist())


def is_tar_header(block: bytes) -> bool:
    """Whether ``block``, 512 bytes, is a tar header with a right checksum."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


class _Budget:
    """What may still come out of the archive, counted as it comes."""

    def __init__(self, limits: ArchiveLimits, archive_size: int) -> None:
        self._limits = limits
        self._entries = 0
        self._written = 0
        by_ratio = max(_RATIO_FREE_BYTES, limits.ratio * archive_size)
        self._most = min(limits.total_bytes, by_ratio)
        self._ratio_binds = by_ratio < limits.total_bytes

    def entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise CorruptArtifact(f"the archive has more than {self._limits.entries} entries")

    def bytes(self, count: int) -> None:
        self._written += count
        if self._written <= self._most:
            return
        if self._ratio_binds:
            raise CorruptArtifact(f"the archive unpacks to more than {self._limits.ratio} times its size")
        raise CorruptArtifact(f"the archive unpacks to more than {self._limits.total_bytes} bytes")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Counted:
    """A source whose bytes count against the budget as they are read: headers, padding and all."""

    def __init__(self, source: _Readable, budget: _Budget) -> None:
        self._source = source
        self._budget = budget

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._budget.bytes(len(data))
        return data

    def chunks(self, size: int) -> Iterator[bytes]:
        """``size`` bytes in chunks; fewer if the source ends before."""
        while size > 0 and (chunk := self.read(min(size, _CHUNK))):
            size -= len(chunk)
            yield chunk

    def rest(self) -> None:
        """Read to the end, so that a checksum there is verified."""
        while self.read(_CHUNK):
            pass


class _Target:
    """The folder being filled, and the paths in it so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths = PathSet()

    def add_folder(self, path: str) -> None:
        """Check the path of a folder; it is made when a file needs it."""
        plain = _without_dot(path.rstrip("/"))
        if plain:
            self._paths.add_folder(plain)

    def add_file(self, path: str, chunks: Iterator[bytes], size: int) -> None:
        """``size`` is what the header says: a file of any other length is refused."""
        plain = _without_dot(path)
        self._paths.add_file(plain)
        written = 0
        with open_new(make_parents(self._folder, plain)) as target:
            for chunk in chunks:
                written += target.write(chunk)
        if written != size:
            raise CorruptArtifact("a file of the archive is not as long as its header says")


def _without_dot(path: str) -> str:
    """tar writes ``./name``, and ``.`` for the folder it was run in; that much is harmless."""
    return "" if path == "." else path.removeprefix("./")


def _extract_zip(file: IO[bytes], target: _Target, budget: _Budget) -> None:
    with _damage_refused(), zipfile.ZipFile(_BoundedReads(file)) as opened:
        for info in opened.infolist():
            budget.entry()
            _check_zip_entry(info)
            if info.is_dir():
                target.add_folder(info.filename)
                continue
            with opened.open(info) as entry:
                target.add_file(info.filename, _Counted(entry, budget).chunks(info.file_size), info.file_size)


def _check_zip_entry(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ZIP_ENCRYPTED:
        raise CorruptArtifact("the archive is encrypted", hint="pack it again without a password")
    # The other methods unpack a block at a time, however large it turns out.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CorruptArtifact("the archive uses a compression other than deflate", hint="pack it again with zip")
    if "\0" in info.orig_filename:
        raise CorruptArtifact("a name in the archive has a NUL in it")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
        raise _not_a_file()


class _BoundedReads:
    """What ``zipfile`` reads at once is bounded, so that a directory of millions of entries is never in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(_MAX_ZIP_DIRECTORY + 1 if size < 0 else min(size, _MAX_ZIP_DIRECTORY + 1))
        if len(data) > _MAX_ZIP_DIRECTORY:
            raise CorruptArtifact("the archive has too many entries")
        return data


def _extract_tar(source: _Readable, target: _Target, budget: _Budget) -> None:
    """A walk of our own over the headers: ``tarfile`` reads extended headers of any length into memory."""
    counted = _Counted(source, budget)
    with _damage_refused():
        extended: dict[str, str] = {}
        extensions = 0
        while (header := _tar_header(counted)) is not None:
            if header.type in _TAR_EXTENSIONS:
                extensions += 1
                found = _tar_extension(header, counted)
                if extensions > _MAX_TAR_EXTENSIONS or found.keys() & extended.keys():
                    raise CorruptArtifact("an entry of the archive describes itself more than once")
                extended |= found
                continue
            budget.entry()
            _tar_member(header, extended, counted, target)
            extended, extensions = {}, 0
        counted.rest()


_TAR_EXTENSIONS: Final = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME})


def _tar_header(counted: _Counted) -> tarfile.TarInfo | None:
    """The next header; ``None`` at the block of zeros that ends every archive."""
    block = counted.read(_BLOCK)
    if len(block) == _BLOCK and not any(block):
        return None
    return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


def _tar_member(header: tarfile.TarInfo, extended: dict[str, str], counted: _Counted, target: _Target) -> None:
    path = extended.get("path", header.name)
    size = int(extended.get("size", header.size))
    if header.type == tarfile.DIRTYPE and size == 0:
        target.add_folder(path)
    elif header.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and size >= 0:
        target.add_file(path, counted.chunks(size), size)
        _skip_padding(counted, size)
    else:
        raise _not_a_file()


def _tar_extension(header: tarfile.TarInfo, counted: _Counted) -> dict[str, str]:
    """What an extended header says of the next entry's path and size."""
    if not 0 <= header.size <= _MAX_TAR_HEADER:
        raise CorruptArtifact("a header in the archive is too large")
    data = counted.read(header.size)
    _skip_padding(counted, header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.removesuffix(b"\0").decode()}
    records = _pax_records(data)
    if any(key.startswith("GNU.sparse") or key == "linkpath" for key in records):
        raise _not_a_file()
    found: dict[str, str] = {key: records[key] for key in ("path", "size") if key in records}
    if found and header.type == tarfile.XGLTYPE:
        raise CorruptArtifact("the archive gives one path or size to all its entries")
    return found


def _pax_records(data: bytes) -> dict[str, str]:
    """Records of the form ``length key=value\\n``, where the length counts itself."""
    records: dict[str, str] = {}
    while data:
        digits, _, _ = data[:20].partition(b" ")
        length = int(digits)
        record = data[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not digits.isdigit() or length > len(data) or not equals or value[-1:] != b"\n":
            raise CorruptArtifact("a header in the archive is damaged")
        records[key.decode()] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return records


def _skip_padding(counted: _Counted, size: int) -> None:
    counted.read(-size % _BLOCK)


def _not_a_file() -> CorruptArtifact:
    return CorruptArtifact("the archive has a link, a device or another thing that is no file", hint="pack plain files")


@contextmanager
def _damage_refused() -> Iterator[None]:
    """The standard library tells of damage in a dozen ways, from ``BadZipFile`` to ``struct.error``."""
    try:
        yield
    except (KeelwayError, MemoryError):
        raise
    except OSError as error:
        # gzip's errors have no number and a seek to nowhere is EINVAL; anything else is the disk's doing.
        if error.errno in (None, errno.EINVAL):
            raise _damaged() from error
        raise
    except Exception as error:
        raise _damaged() from error


def _damaged() -> CorruptArtifact:
    return CorruptArtifact("the archive is damaged", hint="pack it again")
