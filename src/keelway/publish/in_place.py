"""Files of a model that are stored from where they lie: a copy of large weights takes as long as storing them.

What was checked is what is stored: a file that somebody has written to in between is refused. ``onnx_file.py`` finds
them, ``release.py`` stores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import FileEntry
from keelway.artifacts.materialise import store_files
from keelway.errors import FailedPrecondition

#: Device, number, size and time of the last change of a file.
_State = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class InPlace:
    """``files`` by their paths in the artifact, and how each was before anything had looked into it."""

    files: Mapping[str, Path]
    states: Mapping[str, _State]

    @classmethod
    def of(cls, files: Mapping[str, Path]) -> InPlace:
        return cls(files, {path: _state(file) for path, file in files.items()})

    @property
    def size(self) -> int:
        return sum(size for _, _, size, _ in self.states.values())

    def store(self, blobs: BlobStore) -> tuple[FileEntry, ...]:
        """Raises ``FailedPrecondition`` for files that have changed, and as ``store_files`` does."""
        entries = store_files(blobs, self.files)
        if any(_state(file) != self.states[path] for path, file in self.files.items()):
            raise FailedPrecondition(
                "the model was written to while it was pushed", field="file", hint="push it again when it is complete"
            )
        return entries

    def entry_of(self, file: Path, entries: Sequence[FileEntry]) -> FileEntry | None:
        """What ``store`` has answered for ``file``, if it is one of them."""
        there = file.resolve()
        return next((entry for entry in entries if self.files[entry.path] == there), None)


def _state(file: Path) -> _State:
    try:
        found = file.stat()
    except OSError:
        return -1, -1, -1, -1
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
