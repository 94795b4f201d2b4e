"""Servers as processes: started on free ports and one core, weighed with all their children, and ended with them.

A server that starts helpers of its own (Triton, BentoML, mosec) is the whole tree.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

START_SECONDS = 90.0
STOP_SECONDS = 15.0
PORTS = ("http", "grpc", "metrics")


class NotStarted(Exception):
    """The server ended, or answered nothing in time. The text is the end of its log."""


class Running(NamedTuple):
    """``started_in``: seconds from the start of the process to its first good answer."""

    ports: Mapping[str, int]
    process: psutil.Process
    started_in: float


class Weight(NamedTuple):
    """Memory of a process tree in MiB: resident, which counts shared pages once for each process, and proportional,
    which shares them out."""

    resident: float
    proportional: float


@functools.cache
def cores() -> tuple[int, int]:
    """The core of the server and the core of the load; two different ones. Decided once, before this process itself
    moves to one of them."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("bench: two cores are needed, one for the server and one for the load")
    return usable[0], usable[1]


def free_ports() -> dict[str, int]:
    """A free loopback port for each of ``PORTS``."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in PORTS]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return {name: probe.getsockname()[1] for name, probe in zip(PORTS, probes, strict=True)}


@contextmanager
def server(
    command: Sequence[str],
    core: int | str,
    folder: Path,
    environment: Mapping[str, str],
    answers: Callable[[Mapping[str, int]], bool],
) -> Iterator[Running]:
    """Run ``command`` on ``core`` (or several: ``0,1``) in ``folder``, with ``{http}``, ``{grpc}`` and ``{metrics}``
    filled in, until ``answers``. ``NotStarted`` if it ends or takes longer than ``START_SECONDS``."""
    ports = free_ports()
    words = [word.format(**ports) if "{" in word else word for word in command]
    log = folder / "server.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *words],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        while not answers(ports):
            if process.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise NotStarted(last_lines(log))
            time.sleep(0.005)
        yield Running(ports, psutil.Process(process.pid), time.monotonic() - began)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End ``process`` politely, then whatever is left of its tree."""
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        for child in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)


def weight(process: psutil.Process) -> Weight:
    """Of ``process`` and everything it started, now."""
    resident = proportional = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = one.memory_full_info()
            resident += memory.rss
            proportional += memory.pss
    return Weight(resident / 2**20, proportional / 2**20)


def last_lines(log: Path, count: int = 12) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
