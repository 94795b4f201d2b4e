"""Load: ``wrk`` for REST and ``h2load`` for gRPC, both on a core of their own, and what they print, parsed.

A run with one failed request is refused: a fast error is no throughput. h2load does not see the trailers in which gRPC
tells the status, so that an error counts as a success with it. But an error carries no message: what it received has to
be its count times the size of the reply that was checked.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

WRK_SCRIPT = """
local file = io.open(os.getenv("BENCH_BODY"), "rb"); wrk.body = file:read("*all"); file:close()
wrk.method = "POST"
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('RESULT {"requests": %d, "microseconds": %d, "p50": %.1f, "p99": %.1f, '
    .. '"status": %d, "socket": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"""
_REQUESTS = re.compile(
    r"^requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout",
    re.MULTILINE,
)
_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s), ([\d.]+) req/s", re.MULTILINE)
_DATA = re.compile(r"^traffic: .* \((\d+)\) data$", re.MULTILINE)


class Refused(Exception):
    """A run that is no measurement: requests failed, or answers were not those that had been checked."""


class Load(NamedTuple):
    """``rate`` in requests a second; ``p50`` and ``p99`` in milliseconds; ``requests`` is how many were answered."""

    rate: float
    p50: float
    p99: float
    requests: int


def require_tools() -> None:
    """``SystemExit`` unless both load generators are installed."""
    if not (shutil.which("wrk") and shutil.which("h2load")):
        raise SystemExit("bench: wrk and h2load are needed: apt-get install wrk nghttp2-client")


def parse_wrk(output: str) -> Load:
    """``Refused`` for replies other than 2xx, socket errors and runs without an answer."""
    found = output.split("RESULT ", 1)[1:]
    if not found:
        raise Refused("wrk printed no result")
    result = json.loads(found[0].splitlines()[0])
    if result["status"] or result["socket"]:
        raise Refused(f"{result['status']} replies other than 2xx, {result['socket']} socket errors")
    if not result["requests"]:
        raise Refused("no request was answered")
    rate = result["requests"] / result["microseconds"] * 1e6
    return Load(rate, result["p50"] / 1000, result["p99"] / 1000, result["requests"])


def parse_h2load(output: str, log: str, reply_size: int, connections: int) -> Load:
    """``log`` has a line for each request, microseconds last; ``reply_size`` is that of the checked reply's message.
    ``Refused`` for failed requests, runs without an answer, and answers of another size. Each connection may have been
    cut off in the middle of one reply more."""
    requests, finished, data = _REQUESTS.search(output), _FINISHED.search(output), _DATA.search(output)
    if not (requests and finished and data):
        raise Refused("h2load printed no result")
    total, _, succeeded, *bad = (int(count) for count in requests.groups())
    if any(bad) or total != succeeded:
        raise Refused(f"{total - succeeded} of {total} requests did not succeed")
    if not succeeded:
        raise Refused("no request was answered")
    size = reply_size + 5
    if not succeeded * size <= int(data[1]) <= (succeeded + connections) * size:
        raise Refused(f"{data[1]} bytes of messages instead of {succeeded * size}: some answers are errors")
    waits = sorted(int(line.rsplit("\t", 1)[1]) / 1000 for line in log.splitlines() if "\t" in line)
    percentiles = statistics.quantiles(waits, n=100, method="inclusive") if len(waits) > 1 else waits * 99
    return Load(float(finished[3]), percentiles[49], percentiles[98], succeeded)


def wrk(
    url: str, body: Path, headers: Mapping[str, str], connections: int, seconds: float, core: int, scratch: Path
) -> Load:
    """POST ``body`` to ``url`` over ``connections`` connections for ``seconds``, rounded up: wrk takes whole ones."""
    script = scratch / "post.lua"
    script.write_text(WRK_SCRIPT)
    named = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "-s", str(script), *named, url]
    return parse_wrk(_output(command, core, seconds, {"BENCH_BODY": str(body)}))


def h2load(
    url: str,
    body: Path,
    headers: Mapping[str, str],
    connections: int,
    seconds: float,
    core: int,
    scratch: Path,
    reply_size: int,
    requests: int | None = None,
) -> Load:
    """POST the framed message in ``body`` over ``connections`` connections, one call at a time on each; for
    ``seconds``, or exactly ``requests`` times."""
    log = scratch / "h2load.log"
    log.unlink(missing_ok=True)
    amount = ["-n", str(requests)] if requests else ["-D", f"{round(seconds * 1000)}ms"]
    named = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    options = ["-t1", "-m1", f"-c{connections}", "-d", str(body), f"--log-file={log}", *named]
    output = _output(["h2load", *amount, *options, url], core, seconds, {})
    return parse_h2load(output, log.read_text(), reply_size, connections)


def _output(command: list[str], core: int, seconds: float, environment: dict[str, str]) -> str:
    pinned = ["taskset", "-c", str(core), *command]
    done = subprocess.run(
        pinned, env=os.environ | environment, check=True, capture_output=True, text=True, timeout=seconds + 60
    )
    return done.stdout
