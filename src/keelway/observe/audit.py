"""The audit log: what matters later, one JSON object a line. Failures of one caller are written a few times a minute,
and then counted: who fails on purpose must not fill the disk.

Several processes append to the file. Each line is one write at its end, so that lines are neither cut nor mixed. A file
that was renamed away is left to whoever did that, and another one begun in its place.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from keelway.clock import Clock, rfc3339
from keelway.errors import FailedPrecondition
from keelway.types import AuditEvent

log = logging.getLogger("keelway.audit")

#: Failures and refusals of one caller that are written in one window, the window in seconds, and the callers that are
#: counted apart, of whom those who come too late are one.
_MOST: Final = 10
_WINDOW: Final = 60.0
_CALLERS: Final = 10_000
_CROWD: Final = ""
#: Events that wait to be written; beyond, they are lost and counted.
_WAITING: Final = 10_000


class AuditLog:
    """``note`` and ``take`` never wait, ``write`` blocks. Without a ``file`` nothing is kept. ``caller`` says for whom
    an address counts, ``dropped`` is told how many lines are lost."""

    def __init__(
        self,
        file: str,
        clock: Clock,
        caller: Callable[[str], str] = str,
        dropped: Callable[[int], None] = lambda lines: None,
    ) -> None:
        self._file = file
        self._clock = clock
        self._caller = caller
        self._dropped = dropped
        self._events: list[AuditEvent] = []
        self._lost = 0
        self._failing = False
        # The one whose window began first is the first.
        self._seen: dict[str, tuple[float, int]] = {}
        self._descriptor = _opened(file) if file else None

    def note(self, event: AuditEvent) -> None:
        if self._descriptor is None:
            return
        if event.outcome != "done":
            left_out = self._left_out(self._caller(event.peer))
            if left_out is None:
                return
            event = msgspec.structs.replace(event, suppressed=left_out)
        if len(self._events) >= _WAITING:
            self._lost += 1
            return
        self._events.append(event)

    def take(self) -> Sequence[AuditEvent]:
        """What waits to be written, and waits no more."""
        events, self._events = self._events, []
        lost, self._lost = self._lost, 0
        if lost:
            self._dropped(lost)
            log.error("%d events of the audit log were lost", lost)
        return events

    def write(self, events: Sequence[AuditEvent]) -> None:
        """Write ``events``. What cannot be written is lost, and counted; that is said once until it works again."""
        if not events or self._descriptor is None:
            return
        lost, reason = 0, ""
        for event in events:
            try:
                self._append(_line(event), self._followed(self._descriptor))
            except (OSError, UnicodeError) as error:
                lost, reason = lost + 1, getattr(error, "strerror", None) or type(error).__name__
        if lost:
            self._dropped(lost)
        if bool(lost) != self._failing:
            self._failing = bool(lost)
            if lost:
                log.error("lines of the audit log cannot be written, and are lost: %s", reason)
            else:
                log.info("the audit log is written again")

    def flush(self) -> None:
        """Write what was noted; blocks."""
        self.write(self.take())

    def close(self) -> None:
        self.flush()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _followed(self, descriptor: int) -> int:
        """``descriptor``, or that of another file if ours was renamed or removed. A renamed one goes on where none can
        be begun; ``OSError`` if it was removed."""
        ours = os.fstat(descriptor)
        try:
            if os.path.samestat(Path(self._file).stat(), ours):
                return descriptor
        except OSError:
            pass
        try:
            self._descriptor = _open(self._file)
        except OSError:
            if not ours.st_nlink:
                raise
            return descriptor
        os.close(descriptor)
        return self._descriptor

    def _append(self, line: bytes, descriptor: int) -> None:
        """``OSError`` if it cannot be written whole; nothing of it is left then, unless another process has written
        behind it."""
        written = os.write(descriptor, line)
        if written < len(line):
            with contextlib.suppress(OSError):  # what is no file has no length
                end = os.lseek(descriptor, 0, os.SEEK_CUR)
                if os.fstat(descriptor).st_size == end:
                    os.ftruncate(descriptor, end - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _left_out(self, caller: str) -> int | None:
        """How many events of ``caller`` were left out before this one, which is written; ``None`` if it is not."""
        now = self._clock.monotonic()
        since, count = self._seen.get(caller, (-math.inf, 0))
        left_out = 0
        if now - since >= _WINDOW:
            self._seen.pop(caller, None)
            if caller != _CROWD and not self._has_room(now):
                return self._left_out(_CROWD)
            since, count, left_out = now, 0, max(0, count - _MOST)
        self._seen[caller] = (since, count + 1)
        return left_out if count < _MOST else None

    def _has_room(self, now: float) -> bool:
        """Whether one more caller can be counted apart. Nobody's count is thrown away for that before its window is
        over: a crowd of addresses must not fill the disk either."""
        if len(self._seen) >= _CALLERS - 1:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest][0] < _WINDOW:
                return False
            del self._seen[oldest]
        return True


def _line(event: AuditEvent) -> bytes:
    fields = msgspec.to_builtins(event)
    return msgspec.json.encode(fields | {"time": rfc3339(event.time)}) + b"\n"


def _open(file: str) -> int:
    """Appended to, and read by nobody else than its owner."""
    return os.open(Path(file), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _opened(file: str) -> int:
    try:
        return _open(file)
    except OSError as error:
        raise FailedPrecondition(
            f"the audit log cannot be opened: {error.strerror}", hint="check the setting audit.file"
        ) from None
