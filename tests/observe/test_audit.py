"""The audit log: whole lines, a bounded number of them, readable by its owner alone. # U1"""

from __future__ import annotations

import json
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
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
    assert not log.take()
    log.close()


def test_a_file_that_cannot_be_opened_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition):
        AuditLog(str(tmp_path / "nowhere" / "log"), FakeClock())


def test_a_crowd_of_callers_writes_a_bounded_number_of_lines(tmp_path: Path) -> None:
    clock = FakeClock()
    log = AuditLog(str(tmp_path / "log"), clock)
    for number in range(9_999):
        log.note(event(str(number)))
    log.flush()
    for number in range(50_000):
        log.note(event(f"late {number}"))
    log.note(event("0"))
    log.flush()
    assert len(lines(tmp_path / "log")) == 9_999 + 10 + 1
    clock.advance(61)
    log.note(event("new"))
    log.note(event("later"))
    assert [noted.suppressed for noted in log.take()] == [0, 0], "there is room again"
    log.close()


def test_addresses_of_one_caller_count_together(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path / "log"), FakeClock(), lambda address: address.rpartition(":")[0])
    for number in range(100):
        log.note(event(f"2001:db8::{number}"))
    log.close()
    assert len(lines(tmp_path / "log")) == 10


def test_lines_of_several_processes_are_neither_cut_nor_mixed(tmp_path: Path) -> None:
    logs = [AuditLog(str(tmp_path / "log"), FakeClock()) for _ in range(4)]
    long = AuditEvent(0.0, "load", "done", "key:" + "n" * 60, target="m" * 63)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda log: [log.write([long] * 5) for _ in range(100)], logs))
    for log in logs:
        log.close()
    assert len(lines(tmp_path / "log")) == 4 * 500
    assert {line["target"] for line in lines(tmp_path / "log")} == {"m" * 63}


@pytest.mark.parametrize("removed", [False, True])
def test_a_file_that_was_renamed_or_removed_is_begun_anew(tmp_path: Path, removed: bool) -> None:
    file, moved = tmp_path / "log", tmp_path / "log.1"
    first, second = (AuditLog(str(file), FakeClock()) for _ in range(2))
    for log in (first, second):
        log.note(event())
        log.flush()
    if removed:
        file.unlink()
    else:
        file.rename(moved)
    for log in (first, second, first):
        log.note(event())
        log.flush()
    first.close()
    second.close()
    assert len(lines(file)) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert removed or len(lines(moved)) == 2


def test_a_renamed_file_goes_on_where_none_can_be_begun_and_a_removed_one_is_a_loss(tmp_path: Path) -> None:
    folder, dropped = tmp_path / "folder", list[int]()
    folder.mkdir()
    log = AuditLog(str(folder / "log"), FakeClock(), dropped=dropped.append)
    folder.rename(tmp_path / "moved")
    log.note(event())
    log.flush()
    assert len(lines(tmp_path / "moved" / "log")) == 1
    (tmp_path / "moved" / "log").unlink()
    log.note(event())
    log.close()
    assert dropped == [1]


def test_a_full_disk_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    dropped: list[int] = []
    log = AuditLog("/dev/full", FakeClock(), dropped=dropped.append)
    for _ in range(3):
        log.note(event())
        log.note(event())
        log.flush()
    log.close()
    assert dropped == [2, 2, 2]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "No space left" in caplog.text


def test_a_line_that_does_not_fit_leaves_nothing_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped, write = list[int](), os.write
    log = AuditLog(str(tmp_path / "log"), FakeClock(), dropped=dropped.append)
    log.note(event())
    log.flush()
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:20]))
    log.note(event())
    log.flush()
    monkeypatch.undo()
    log.note(event("192.0.2.2"))
    log.close()
    assert [line["peer"] for line in lines(tmp_path / "log")] == ["192.0.2.1", "192.0.2.2"]
    assert dropped == [1]


def test_what_more_than_may_wait_is_counted(tmp_path: Path) -> None:
    dropped: list[int] = []
    log = AuditLog(str(tmp_path / "log"), FakeClock(), dropped=dropped.append)
    for _ in range(10_005):
        log.note(event(outcome="done"))
    assert len(log.take()) == 10_000
    assert dropped == [5]
    log.close()
