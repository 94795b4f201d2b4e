"""Between a blob store and a folder: a manifest's files written out verified, a folder's files stored.

What a runtime later loads is the very copy that was hashed on its way here, in a folder nobody else can write to.
Hosting materialises, publishing stores. Nothing here parses a model.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.artifacts.paths import MAX_DEPTH, MAX_FILES, PathSet, appearing, make_parents
from keelway.errors import CorruptArtifact, InvalidInput, NotFound

#: A manifest lists files and names features; more than this is not one.
MAX_MANIFEST_BYTES: Final = 16 * 1024 * 1024


def put_manifest(store: BlobStore, manifest: Manifest) -> str:
    """Store ``manifest``; answers its digest, the model digest. The files it lists are stored by ``store_folder``."""
    check_files(manifest.files)
    return store.put_bytes(manifest.to_bytes())


def read_manifest(store: BlobStore, digest: str) -> Manifest:
    """The manifest with that digest, verified.

    Raises ``NotFound`` if the store has none, ``CorruptArtifact`` if it is damaged or lists paths that no artifact may
    have, ``Unavailable`` if the store does not answer.
    """
    manifest = Manifest.from_bytes(store.read(digest, MAX_MANIFEST_BYTES), digest)
    check_files(manifest.files)
    return manifest


def check_files(files: Sequence[FileEntry]) -> None:
    """Raise ``CorruptArtifact`` unless every path is plain and relative, no two are one file, and sizes are sizes."""
    paths = PathSet()
    for entry in files:
        paths.add_file(entry.path)
        if entry.size < 0:
            raise CorruptArtifact("a file of the manifest has a negative size")


def materialise(store: BlobStore, manifest: Manifest, folder: Path) -> None:
    """Write every file of ``manifest`` to ``folder`` (mode 0700, files 0600), each verified while it is copied.

    ``folder`` must be absent or empty, and appears whole or not at all. Raises ``CorruptArtifact`` for a file that
    differs or a path that no artifact may have, ``NotFound`` for a missing blob, ``InvalidInput`` if ``folder`` is in
    use, ``Unavailable`` if the store or the disk fails.
    """
    check_files(manifest.files)
    with appearing(folder) as filling:
        for entry in manifest.files:
            store.fetch(entry.sha256, make_parents(filling, entry.path), entry.size)


def read_manifests(store: BlobStore, digest: str) -> dict[str, Manifest]:
    """The manifest with that digest first, then those of a pipeline's members at any depth, by their digests. Raises as
    ``read_manifest`` does."""
    found: dict[str, Manifest] = {}
    waiting = [digest]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found[current] = read_manifest(store, current)
            waiting += found[current].members
    return found


def check_stored(store: BlobStore, digest: str) -> Iterator[FileEntry]:
    """Read every file of ``read_manifests`` to its end; answers the files as they are verified. Raises as it and
    ``materialise`` do."""
    for manifest in read_manifests(store, digest).values():
        for entry in manifest.files:
            store.check(entry.sha256, entry.size)
            yield entry


def store_folder(store: BlobStore, folder: Path) -> tuple[FileEntry, ...]:
    """Store every file below ``folder``; answers their entries, sorted by path. Empty folders are not kept.

    Raises ``InvalidInput`` for a link, a device, a pipe, a socket, or a file that is also linked from outside the
    folder (its content could change under another name), ``CorruptArtifact`` for a path no artifact may have,
    ``NotFound`` if there is no such folder.
    """
    return store_files(store, {path: folder / path for path in _regular_files(folder)})


def store_files(store: BlobStore, files: Mapping[str, Path]) -> tuple[FileEntry, ...]:
    """Store each of ``files`` under its path in the artifact; answers their entries, sorted by path. Raises
    ``InvalidInput`` for a link, a device or a pipe, ``CorruptArtifact`` for a path no artifact may have."""
    paths = PathSet()
    for path in files:
        paths.add_file(path)
    stored = {path: store.put_file(files[path]) for path in sorted(files)}
    return tuple(FileEntry(path=path, sha256=entry.sha256, size=entry.size) for path, entry in stored.items())


def _regular_files(folder: Path) -> list[str]:
    """Relative paths of the files below ``folder``, after the checks of ``store_folder``."""
    found: list[str] = []
    links: Counter[tuple[int, int]] = Counter()
    counts: dict[tuple[int, int], int] = {}
    for path, status in _walk(folder, "", 1):
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(
                "the folder has a link, a device or a pipe in it", field="folder", hint="replace it by a regular file"
            )
        found.append(path)
        identity = (status.st_dev, status.st_ino)
        links[identity] += 1
        counts[identity] = status.st_nlink
        if len(found) > MAX_FILES:
            raise InvalidInput(f"the folder has more than {MAX_FILES} files", field="folder")
    if any(counts[identity] > seen for identity, seen in links.items()):
        raise InvalidInput(
            "a file is also linked from outside the folder", field="folder", hint="push a plain copy (cp -r) of it"
        )
    return found


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    if depth > MAX_DEPTH:
        raise InvalidInput(f"the folder is more than {MAX_DEPTH} folders deep", field="folder")
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("there is no such folder", field="folder") from None
    except OSError as error:
        raise InvalidInput("the folder cannot be read", field="folder", hint="check its rights") from error
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", depth + 1)
        else:
            yield f"{prefix}{entry.name}", entry.stat(follow_symlinks=False)
