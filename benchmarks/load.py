"""Load and servers: ``wrk`` on one core, the server on another, and what the server's process weighs."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

import psutil

_SCRIPT = """
local file = io.open(os.getenv("BENCH_BODY"), "rb"); wrk.body = file:read("*all"); file:close()
wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
  io.write(string.format('RESULT {"requests": %d, "microseconds": %d, "p50": %.1f, "p99": %.1f, "failed": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.timeout))
end
"""


class Load(NamedTuple):
    """``rate`` in requests a second; ``p50`` and ``p99`` in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int


class Running(NamedTuple):
    url: str
    process: psutil.Process
    started_in: float


def cores() -> tuple[int, int]:
    """The core of the server and the core of the load; two different ones."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("bench: two cores are needed, one for the server and one for the load")
    return usable[0], usable[-1]


def find_wrk(scratch: Path) -> str:
    """``wrk`` from the path, or unpacked from Debian's package without installing it."""
    found = shutil.which("wrk")
    if found:
        return found
    unpacked = scratch / "wrk" / "usr" / "bin" / "wrk"
    if not unpacked.exists():
        (scratch / "wrk").mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", "wrk", "libluajit-5.1-2"], cwd=scratch / "wrk", check=True)
            for package in (scratch / "wrk").glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, scratch / "wrk"], check=True)
        except (OSError, subprocess.CalledProcessError):
            raise SystemExit("bench: wrk is needed; install it (Debian: apt-get install wrk)") from None
    return str(unpacked)


@contextmanager
def server(command: Sequence[str], path: str, core: int, cwd: Path, environment: dict[str, str]) -> Iterator[Running]:
    """Run ``command`` with ``{port}`` filled in, pinned to ``core``, until it answers ``path``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word.replace("{port}", str(port)) for word in command]
    began = time.monotonic()
    with (cwd / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *words], cwd=cwd, env=os.environ | environment, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while not _answers(url + path, environment["BENCH_BODY"]):
            if process.poll() is not None or time.monotonic() - began > 60:
                raise SystemExit(f"bench: {words[0]} did not start:\n{(cwd / 'server.log').read_text()}")
            time.sleep(0.01)
        yield Running(url, psutil.Process(process.pid), time.monotonic() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def load(wrk: str, url: str, body: Path, connections: int, seconds: float, core: int, scratch: Path) -> Load:
    """POST ``body`` to ``url`` over ``connections`` connections for ``seconds``, whole ones."""
    script = scratch / "post.lua"
    script.write_text(_SCRIPT)
    command = [
        "taskset",
        "-c",
        str(core),
        wrk,
        "-t1",
        f"-c{connections}",
        f"-d{math.ceil(seconds)}s",
        "-s",
        str(script),
        url,
    ]
    output = subprocess.run(
        command, env=os.environ | {"BENCH_BODY": str(body)}, check=True, capture_output=True, text=True
    ).stdout
    result = json.loads(output.split("RESULT ", 1)[1].splitlines()[0])
    return Load(
        result["requests"] / result["microseconds"] * 1e6, result["p50"] / 1000, result["p99"] / 1000, result["failed"]
    )


def _answers(url: str, body: str) -> bool:
    request = Request(url, Path(body).read_bytes(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
