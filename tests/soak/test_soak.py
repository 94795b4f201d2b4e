"""A short soak of real servers, as ``make soak`` makes a long one. # R4 R5 R6 T1 T2 T3 A1 A2"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.serving import wait_until
from tests.soak.judging import HARM
from tests.supervise.served import gone

COMMAND = [sys.executable, "-m", "tests.soak"]
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_answer_is_wrong_or_missing_while_everything_goes_wrong(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    words = [*COMMAND, "--seconds", "40", "--seed", "7", "--json", str(file)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert [found["outcomes"][outcome] for outcome in HARM] == [0, 0, 0]
    assert found["outcomes"]["right"] > 1000
    assert {"worker killed", "workers reloaded", "Valkey full"} <= found["faults"].keys()
    assert {"forest 1.0.0", "forest 2.0.0"} <= found["versions"].keys()
    assert {life["role"] for life in found["memory"]} == {"supervisor", "worker", "single"}
    assert done.stdout.endswith("passed\n")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What a shell starts in the background ignores interrupts, and so does whatever it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_soak_leaves_nothing_running() -> None:
    with subprocess.Popen(
        [*COMMAND, "--seconds", "600"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            wait_until(lambda: "0 s:" in process.stdout.readline(), "the load", 120)  # type: ignore[union-attr]
            time.sleep(3)
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 5
            process.send_signal(signal.SIGINT)
            assert "interrupted" in process.communicate(timeout=60)[0]
            assert process.returncode == 130
            wait_until(lambda: all(gone(child.pid) for child in children), "its children to end")
        finally:
            process.kill()
