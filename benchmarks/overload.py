"""How near its limit a batched model is served, and what becomes of callers beyond it. keelway alone, on all cores: the
model has a thread of its own, and on one core the server's own work would be taken for the batcher's."""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

from benchmarks import heavy, served
from benchmarks.lineup import KEELWAY
from benchmarks.lineup_batching import ALLOWED_MS, BATCH, BATCHING, SATURATION, TIMES
from benchmarks.load import Refused
from benchmarks.models import HEAVY, Model
from benchmarks.openloop import Answered, drive
from benchmarks.processes import Running, cores
from benchmarks.results import Notebook
from benchmarks.served import Bench

#: Seconds of load that are not counted.
_WARM_UP = 1.0
_SETTINGS = {"KEELWAY_RUNTIME_SLOTS": "1", "KEELWAY_BATCHING_MAX_BATCH_SIZE": str(BATCH)}


def measure(bench: Bench) -> Notebook:
    """Under ``saturation``: ``capacity`` and ``rate``, requests a second; under ``overload``: ``capacity``, ``offered``
    and ``good`` a second, ``p50`` and ``p99`` of good answers in milliseconds, ``refused`` and ``late`` shares."""
    notebook, model = Notebook(), bench.models[HEAVY]
    one = served.keelway_of(BATCHING)
    every = ",".join(map(str, cores()))
    for turn in range(bench.rounds):
        print(f"round {turn + 1} of {bench.rounds}: overload", file=sys.stderr, flush=True)
        capacity = heavy.sustained(model.onnx, model.rows.iloc[:BATCH], bench.seconds)
        with served.started(one, Path(sys.executable), model, bench.scratch, every, _SETTINGS) as running:
            reply = served.check(one, running, model, 1)
            served.apply(one, running, model, bench, SATURATION, reply, _WARM_UP)
            rate = served.apply(one, running, model, bench, SATURATION, reply, bench.seconds).rate
            notebook.add("saturation", KEELWAY, capacity=capacity, rate=rate)
            offered = TIMES * capacity
            found = uvloop.run(_overload(running, model, offered, bench.seconds))
            notebook.add("overload", KEELWAY, capacity=capacity, **values(found, offered, bench.seconds))
    return notebook


async def _overload(running: Running, model: Model, rate: float, seconds: float) -> Answered:
    one = served.keelway_of(BATCHING)
    content, headers = one.format.write(model.rows.iloc[:1])
    lines = [f"POST {one.path} HTTP/1.1", "Host: 127.0.0.1", f"X-Request-Timeout: {ALLOWED_MS}ms"]
    lines += [f"{name}: {value}" for name, value in headers.items()] + [f"Content-Length: {len(content)}", "", ""]
    return await drive(running.ports["http"], "\r\n".join(lines).encode() + content, rate, seconds, warm_up=_WARM_UP)


def values(found: Answered, offered: float, seconds: float) -> dict[str, float]:
    """``Refused`` for answers that are none of 200, 503 and 504, or for requests without an answer."""
    strange = {status: count for status, count in found.statuses.items() if status not in (200, 503, 504)}
    if strange or found.lost or not found.seconds:
        raise Refused(f"{found.lost} requests without an answer, and statuses {found.statuses}")
    total = sum(found.statuses.values()) + found.unsent
    return {
        "offered": offered,
        "good": len(found.seconds) / seconds,
        "p50": found.percentile(50),
        "p99": found.percentile(99),
        "refused": found.statuses.get(503, 0) / total,
        "late": found.statuses.get(504, 0) / total,
        "unsent": found.unsent / total,
    }
