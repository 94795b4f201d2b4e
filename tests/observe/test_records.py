"""Records wait in a bounded ring, in order, and leave as one JSON object a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.errors import FailedPrecondition
from keelway.observe.records import JsonLinesSink, NullSink, RecordRing
from keelway.ports import RecordSink
from keelway.types import InferenceRecord


def record(number: int) -> InferenceRecord:
    return InferenceRecord(f"r-{number}", 1.5, "churn", "1.0.0", "sha256:d", 1, "rest_v2", "ada", "OK", 2, 0.25)


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=30))
def test_a_ring_keeps_the_oldest_counts_the_rest_and_is_empty_once_taken(size: int, moves: list[bool]) -> None:
    # M1: nothing is lost without being counted.
    ring, held, taken, dropped = RecordRing(size), [], [], 0
    for number, take in enumerate(moves):
        if take:
            assert list(ring.take()) == held
            taken += held
            held = []
            continue
        ring.append(record(number))
        if len(held) < size:
            held.append(record(number))
        else:
            dropped += 1
    taken += ring.take()
    assert ring.dropped == dropped
    assert len(taken) + dropped == moves.count(False)
    assert list(ring.take()) == []


def test_records_are_appended_to_the_file_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for numbers in ([1, 2], [], [3]):
        sink: RecordSink = JsonLinesSink(path)
        sink.write([record(number) for number in numbers])
        before_close = path.read_text()
        sink.close()
        assert path.read_text() == before_close  # a crash loses nothing that was written
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["request_id"] for line in lines] == ["r-1", "r-2", "r-3"]
    assert lines[0] == {
        "request_id": "r-1",
        "time": 1.5,
        "model": "churn",
        "version": "1.0.0",
        "model_digest": "sha256:d",
        "policy_revision": 1,
        "transport": "rest_v2",
        "principal": "ada",
        "code": "OK",
        "rows": 2,
        "duration": 0.25,
    }


def test_a_file_that_cannot_be_opened_is_said_at_the_start_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="the records file cannot be opened: ") as refused:
        JsonLinesSink(tmp_path / "none" / "records.jsonl")
    assert refused.value.hint == "check the setting records.file"
    assert str(tmp_path) not in refused.value.message


def test_a_sink_for_nobody_forgets() -> None:
    sink: RecordSink = NullSink()
    sink.write([record(1)])
    sink.close()


WRITER = """
import sys
from pathlib import Path
from keelway.observe.records import JsonLinesSink
from keelway.types import InferenceRecord
sink = JsonLinesSink(Path(sys.argv[1]))
for batch in range(60):
    sink.write([InferenceRecord(f"{sys.argv[2]}-{batch}-{i}", 1.5, "churn", "1.0.0", "sha256:d", 1, "rest_v2", "ada",
        "OK", 2, 0.25) for i in range(200)])
"""


def test_lines_that_several_processes_append_to_one_file_stay_whole(tmp_path: Path) -> None:
    # M2: batches of 40 KB, more than any buffer holds.
    path = tmp_path / "records.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    ids = [json.loads(line)["request_id"] for line in path.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 3 * 60 * 200
