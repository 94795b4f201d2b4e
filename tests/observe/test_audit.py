"""The audit log: whole lines, a bounded number of them, readable by its owner alone. # U1"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keelway.errors import FailedPrecondition
from keelway.observe.audit import AuditLog
from keelway.testing import FakeClock
from keelway.types import AuditEvent


def event(peer: str = "192.0.2.1", outcome: str = "failed") -> AuditEvent:
    return AuditEvent(0.0, "authenticate", outcome, peer=peer, reason="key")


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_event_is_a_line_without_what_it_does_not_say(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path / "log"), FakeClock())
    log.note(event())
    log.close()
    assert lines(tmp_path / "log") == [
        {
            "time": "1970-01-01T00:00:00.000000Z",
            "action": "authenticate",
            "outcome": "failed",
            "peer": "192.0.2.1",
            "reason": "key",
        }
    ]


def test_failures_of_one_address_are_bounded_and_counted_and_what_was_done_is_not(tmp_path: Path) -> None:
    clock = FakeClock()
    log = AuditLog(str(tmp_path / "log"), clock)
    for _ in range(1000):
        log.note(event())
    for _ in range(20):
        log.note(event(outcome="done"))
    log.note(event("192.0.2.2"))
    clock.advance(61)
    log.note(event())
    log.close()
    written = lines(tmp_path / "log")
    assert sum(line["outcome"] == "failed" for line in written) == 12
    assert sum(line["outcome"] == "done" for line in written) == 20
    assert written[-1]["suppressed"] == 990


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path / "log"), FakeClock())
    for number in range(100_000):
        log.note(event(str(number)))
    assert len(log._seen) <= 10_000
    assert len(log._events) <= 10_000
    log.close()


def test_two_processes_append_to_one_file(tmp_path: Path) -> None:
    first, second = (AuditLog(str(tmp_path / "log"), FakeClock()) for _ in range(2))
    for log in (first, second, first):
        log.note(event())
        log.flush()
    first.close()
    second.close()
    assert len(lines(tmp_path / "log")) == 3


def test_without_a_file_nothing_is_kept() -> None:
    log = AuditLog("", FakeClock())
    log.note(event())
    assert not log.waiting
    log.close()


def test_a_file_that_cannot_be_opened_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition):
        AuditLog(str(tmp_path / "nowhere" / "log"), FakeClock())
