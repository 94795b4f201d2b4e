"""Commands measured as whole processes, with what Python has compiled kept, as where a package is installed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

#: Comes before the arguments of the command line.
KEELWAY: Final = (sys.executable, "-c", "from keelway.cli.main import main; main()")


class Process(NamedTuple):
    """What a process and those it has waited for took, in seconds: of the processor, theirs and the system's, and by
    the clock; and the bytes that the largest of them had in memory."""

    cpu: float
    wall: float
    peak: float


def run(command: Sequence[str], folder: Path) -> Process:
    """Run ``command`` in ``folder``, which keeps what is compiled. ``CalledProcessError`` if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    with (folder / "said").open("w+b") as said:
        began = time.perf_counter()
        started = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        _, status, used = os.wait4(started.pid, 0)
        wall = time.perf_counter() - began
        started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode:
            said.seek(0)
            raise subprocess.CalledProcessError(started.returncode, command, stderr=said.read())
    return Process(used.ru_utime + used.ru_stime, wall, used.ru_maxrss * 1024)


def median(runs: Sequence[Process]) -> Process:
    return Process(*map(statistics.median, zip(*runs, strict=True)))


def in_turns(folder: Path, commands: Sequence[Sequence[str]], rounds: int) -> list[Process]:
    """The median of ``rounds`` runs of each of ``commands``, after one that compiles."""
    for command in commands:
        run(command, folder)
    took = [[run(command, folder) for command in commands] for _ in range(rounds)]
    return [median(runs) for runs in zip(*took, strict=True)]
