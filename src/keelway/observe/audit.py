"""The audit log: what matters later, one JSON object a line. Failures of one address are written a few times a minute,
and then counted: who fails on purpose must not fill the disk.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import Final

import msgspec

from keelway.clock import Clock, rfc3339
from keelway.errors import FailedPrecondition
from keelway.types import AuditEvent

log = logging.getLogger("keelway.audit")

#: Failures and refusals of one address that are written in one window, the window in seconds, and the most addresses.
_MOST: Final = 10
_WINDOW: Final = 60.0
_ADDRESSES: Final = 10_000
#: Events that wait to be written; beyond, they are lost and counted.
_WAITING: Final = 10_000


class AuditLog:
    """``note`` never waits; ``flush`` writes, and blocks. Without a ``file`` nothing is kept."""

    def __init__(self, file: str, clock: Clock) -> None:
        self._clock = clock
        self._events: list[AuditEvent] = []
        self._lost = 0
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._descriptor = _opened(file) if file else None

    def note(self, event: AuditEvent) -> None:
        if self._descriptor is None:
            return
        if event.outcome != "done":
            left_out = self._left_out(event.peer)
            if left_out is None:
                return
            event = msgspec.structs.replace(event, suppressed=left_out)
        if len(self._events) >= _WAITING:
            self._lost += 1
            return
        self._events.append(event)

    @property
    def waiting(self) -> bool:
        return bool(self._events)

    def flush(self) -> None:
        """Write what was noted. What cannot be written is lost, and said so."""
        events, self._events = self._events, []
        lost, self._lost = self._lost, 0
        if lost:
            log.error("%d events of the audit log were lost", lost)
        if not events or self._descriptor is None:
            return
        rest = memoryview(b"".join(map(_line, events)))
        try:
            while rest:  # one write, so that the lines of several processes stay whole; more only if the disk is full
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            log.error("%d events of the audit log could not be written: %s", len(events), error.strerror)

    def close(self) -> None:
        self.flush()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _left_out(self, address: str) -> int | None:
        """How many events of ``address`` were left out before this one, which is written; ``None`` if it is not."""
        now = self._clock.monotonic()
        since, count = self._seen.pop(address, (now, 0))
        left_out = 0
        if now - since >= _WINDOW:
            since, count, left_out = now, 0, max(0, count - _MOST)
        self._seen[address] = (since, count + 1)
        if len(self._seen) > _ADDRESSES:
            self._seen.popitem(last=False)
        return left_out if count < _MOST else None


def _line(event: AuditEvent) -> bytes:
    fields = msgspec.to_builtins(event)
    return msgspec.json.encode(fields | {"time": rfc3339(event.time)}) + b"\n"


def _opened(file: str) -> int:
    """Appended to, and read by nobody else than its owner."""
    try:
        return os.open(Path(file), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FailedPrecondition(
            f"the audit log cannot be opened: {error.strerror}", hint="check the setting audit.file"
        ) from None
