"""``python -m benchmarks``: measure and write ``docs/benchmarks.md``.

Servers and load are pinned to different cores, rounds are interleaved, medians and spreads are reported. Ratios are
what counts: absolute figures are this machine's.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pandas as pd

from benchmarks.load import Load, cores, find_wrk, load, server
from benchmarks.models import FOREST, KEELWAY, LEADS, make_models

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ROOT / ".cache" / "bench"
PAGE = ROOT / "docs" / "benchmarks.md"
PATH = f"/v2/models/{FOREST}/infer"
CONNECTIONS = (1, 16, 64)

Lines = list[str]


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    arguments.add_argument("--seconds", type=float, default=2.0, help="seconds of load per measurement (default 2)")
    arguments.add_argument("--requests", type=int, default=500_000, help="requests of the memory run (default 500000)")
    arguments.add_argument("--only", choices=("rest", "python", "start", "memory"), help="one part, printed only")
    chosen = arguments.parse_args()
    make_models(SCRATCH)
    parts: dict[str, Callable[[], Lines]] = {
        "rest": lambda: rest(chosen.rounds, chosen.seconds),
        "python": against_python,
        "start": start,
        "memory": lambda: memory(chosen.requests),
    }
    if chosen.only:
        print("\n".join(parts[chosen.only]()))
        return
    lines = heading(chosen.rounds, chosen.seconds)
    for part in parts.values():
        lines += ["", *part()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def heading(rounds: int, seconds: float) -> Lines:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    packages = ", ".join(
        f"{name} {version(name)}"
        for name in ("onnxruntime", "uvicorn", "uvloop", "starlette", "fastapi", "scikit-learn", "skl2onnx")
    )
    return [
        "# Benchmarks",
        "",
        "Written by `make bench`; nothing here is typed by hand. Ratios are what counts: the absolute figures are",
        "those of one machine.",
        "",
        f"- Machine: {model}, server on one core and load on another; Python {platform.python_version()}.",
        f"- keelway {version('keelway')}, {packages}.",
        f"- Method: {rounds} interleaved rounds of {seconds:g} s each; the median, and the lowest and highest of them.",
    ]


def rest(rounds: int, seconds: float) -> Lines:
    """Requests a second for one row over V2 JSON, keelway with all its defaults beside the alternatives."""
    serving, loading = cores()
    wrk = find_wrk(SCRATCH)
    body = forest_body(1)
    environment = {"BENCH_MODEL": str(onnx_file(FOREST)), "BENCH_BODY": str(body), "PYTHONPATH": str(ROOT)}
    commands = {
        "keelway": [str(KEELWAY), "serve", FOREST, "--http", "127.0.0.1:{port}"],
        "bare uvicorn, raw ASGI": [sys.executable, "-m", "benchmarks.servers.bare", "{port}"],
        "FastAPI": [sys.executable, "-m", "benchmarks.servers.fastapi_app", "{port}"],
    }
    found: dict[tuple[str, int], list[Load]] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            with server(command, PATH, serving, SCRATCH, environment) as running:
                load(wrk, running.url + PATH, body, 16, 1, loading, SCRATCH)
                for connections in CONNECTIONS:
                    measured = load(wrk, running.url + PATH, body, connections, seconds, loading, SCRATCH)
                    if measured.failed:
                        raise SystemExit(f"bench: {name} failed {measured.failed} requests")
                    found.setdefault((name, connections), []).append(measured)
    lines = [
        "## REST, one row",
        "",
        "A random forest of 100 trees, 30 features, pushed with a sample; V2 JSON; validation, metrics and records on.",
        "",
        "| server | connections | requests/s (lowest to highest) | p50 ms | p99 ms | ratio to keelway |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for connections in CONNECTIONS:
        ours = statistics.median(item.rate for item in found["keelway", connections])
        for name in commands:
            loads = found[name, connections]
            rates = [item.rate for item in loads]
            rate = statistics.median(rates)
            lines.append(
                f"| {name} | {connections} | {rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) "
                f"| {statistics.median(item.p50 for item in loads):.2f} "
                f"| {statistics.median(item.p99 for item in loads):.2f} | {rate / ours:.2f} |"
            )
    for name in list(commands)[1:]:
        ratios = [ours.rate / other.rate for ours, other in zip(found["keelway", 16], found[name, 16], strict=True)]
        lines += [
            "",
            (
                f"keelway at 16 connections: **{statistics.median(ratios):.2f} ×** {name} "
                f"({min(ratios):.2f} to {max(ratios):.2f} over the rounds)."
            ),
        ]
    return lines


def against_python() -> Lines:
    """One-row calls: the converted model in ONNX Runtime against scikit-learn's own call."""
    lines = [
        "## One row: the converted model against scikit-learn",
        "",
        "| model | scikit-learn `predict_proba`, µs | converted, µs | faster by |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in (FOREST, LEADS):
        model = joblib.load(SCRATCH / f"{name}.joblib")
        row = pd.read_parquet(SCRATCH / f"{name}.parquet").drop(columns="target").iloc[:1]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(onnx_file(name), options, providers=["CPUExecutionProvider"])
        tensor, array = session.get_inputs()[0].name, row.to_numpy(np.float32)
        outputs = [output.name for output in session.get_outputs()]
        theirs = microseconds(lambda m=model, r=row: m.predict_proba(r), 60)
        ours = microseconds(lambda s=session, o=outputs, t=tensor, a=array: s.run(o, {t: a}), 20_000)
        lines.append(f"| {name} ({row.shape[1]} features) | {theirs:,.0f} | {ours:.1f} | {theirs / ours:,.0f} × |")
    return lines


def start() -> Lines:
    """CPU of the help, time until ready, and resident memory of a server with one small model."""
    serving, _ = cores()
    helps = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([KEELWAY, "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        helps.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    body = forest_body(1)
    ready, resident = [], []
    for _ in range(5):
        command = [str(KEELWAY), "serve", FOREST, "--http", "127.0.0.1:{port}"]
        with server(command, PATH, serving, SCRATCH, {"BENCH_BODY": str(body)}) as running:
            ready.append(running.started_in)
            resident.append(running.process.memory_info().rss / 2**20)
    return [
        "## Start and weight",
        "",
        f"- `keelway --help`: {statistics.median(helps):.2f} s of CPU.",
        (
            f"- `keelway serve {FOREST}` from start to the first answer, on one core: {statistics.median(ready):.2f} s "
            f"({min(ready):.2f} to {max(ready):.2f})."
        ),
        f"- Resident memory once ready: {statistics.median(resident):.0f} MiB.",
    ]


def memory(requests: int) -> Lines:
    """Growth of the resident memory over ``requests`` requests, after a warm-up of a tenth of them."""
    serving, loading = cores()
    wrk = find_wrk(SCRATCH)
    body = forest_body(1)
    command = [str(KEELWAY), "serve", FOREST, "--http", "127.0.0.1:{port}"]
    with server(command, PATH, serving, SCRATCH, {"BENCH_BODY": str(body)}) as running:
        rate = load(wrk, running.url + PATH, body, 16, 3, loading, SCRATCH).rate
        load(wrk, running.url + PATH, body, 16, max(1.0, requests / 10 / rate), loading, SCRATCH)
        before = running.process.memory_info().rss
        done, began = 0, time.monotonic()
        while done < requests and time.monotonic() - began < 600:
            measured = load(wrk, running.url + PATH, body, 16, 10, loading, SCRATCH)
            done += int(measured.rate * 10)
        after = running.process.memory_info().rss
    growth = (after - before) / before * 100
    return [
        "## Memory over many requests",
        "",
        f"{done:,} requests: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after, {growth:+.2f} %.",
    ]


def forest_body(rows: int) -> Path:
    """A V2 JSON request of ``rows`` rows of the forest's sample."""
    frame = pd.read_parquet(SCRATCH / f"{FOREST}.parquet").drop(columns="target").iloc[:rows]
    tensor = {
        "name": "input",
        "shape": list(frame.shape),
        "datatype": "FP32",
        "data": frame.to_numpy().ravel().round(4).tolist(),
    }
    path = SCRATCH / f"body{rows}.json"
    path.write_text(json.dumps({"inputs": [tensor]}))
    return path


def onnx_file(name: str) -> Path:
    """The converted file out of the registry's artifacts, so that every server runs the same bytes."""
    shown = json.loads(
        subprocess.run([KEELWAY, "show", name, "--json"], cwd=SCRATCH, check=True, capture_output=True).stdout
    )
    digest = next(file["sha256"] for file in shown["files"] if file["path"].endswith(".onnx"))
    found: list[Path] = [
        path
        for path in (SCRATCH / ".keelway" / "artifacts").rglob("*")
        if path.is_file() and digest.endswith(path.name)
    ]
    return found[0]


def microseconds(call: Callable[[], Any], count: int) -> float:
    """Median microseconds of ``call``, over five blocks of ``count`` calls after a warm-up."""
    for _ in range(3):
        call()
    blocks = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            call()
        blocks.append((time.perf_counter() - began) / count * 1e6)
    return statistics.median(blocks)


if __name__ == "__main__":
    main()
