"""Inference records: a bounded ring that never blocks the caller, and the JSON Lines file it may be emptied into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from keelway.errors import FailedPrecondition
from keelway.types import InferenceRecord


class RecordRing:
    """Holds at most ``size`` records until they are taken. When full, new records are dropped and counted: losing the
    newest keeps the order of what is left, and a full ring means that the sink has stopped anyway."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._records: list[InferenceRecord] = []
        self.dropped = 0

    def append(self, record: InferenceRecord) -> None:
        if len(self._records) < self._size:
            self._records.append(record)
        else:
            self.dropped += 1

    def take(self) -> Sequence[InferenceRecord]:
        """All records held, oldest first; the ring is empty afterwards."""
        records, self._records = self._records, []
        return records


class JsonLinesSink:
    """Appends records to ``path``, one JSON object a line. Values of the caller's are not in a record.

    A batch is one write at the end of the file, so that the lines of several processes stay whole."""

    def __init__(self, path: Path) -> None:
        self._encoder = msgspec.json.Encoder()
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise FailedPrecondition(
                f"the records file cannot be opened: {error.strerror}", hint="check the setting records.file"
            ) from None

    def write(self, records: Sequence[InferenceRecord]) -> None:
        rest = memoryview(self._encoder.encode_lines(records))
        while rest:  # one write, unless the disk is full
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        self._file.close()


class NullSink:
    """Where records go when none are wanted."""

    def write(self, records: Sequence[InferenceRecord]) -> None:
        """Forget ``records``."""

    def close(self) -> None:
        """Nothing is held."""
