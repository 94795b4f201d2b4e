"""The sections of the page: what each measures. ``__main__`` stores what they return, ``page`` prints it."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime

from benchmarks import guarded, guards, here, overload, served, workers
from benchmarks.lineup import CACHED, GRPC, KEELWAY, LEADS, REST, Lineup, Scenario
from benchmarks.lineup_batching import BATCHING, TURNS
from benchmarks.models import HEAVY, KEELWAY_COMMAND, Model
from benchmarks.processes import weight
from benchmarks.results import Figures, Notebook, Section
from benchmarks.served import Bench
from keelway.cache.key import KeyMaker
from keelway.contract.signature import Feature, ModelSignature
from keelway.types import TensorSpec

Measured = tuple[tuple[Figures, ...], dict[str, str], dict[str, str]]
LINEUPS: Mapping[str, Lineup] = {
    "rest": REST,
    "grpc": GRPC,
    "leads": LEADS,
    "batching": BATCHING,
    "turns": TURNS,
    "cache": CACHED,
    "guard": guarded.GUARDED,
}
GROWTH_CONNECTIONS, GROWTH_SECONDS = 16, 10.0
KEY_FEATURES = 50
_PACKAGES = ("keelway", "onnxruntime", "scikit-learn", "skl2onnx", "numpy")


@dataclass(frozen=True)
class Request:
    """What the command line asked for. ``servers``: parts of their names; empty: all of them."""

    bench: Bench
    servers: tuple[str, ...]
    requests: int


def measure(name: str, request: Request, measured_at: str) -> Section:
    """Measure the section ``name`` now."""
    machine = here.machine()
    figures, versions, absent = SECTIONS[name][1](request)
    return Section(
        name=name,
        measured_at=measured_at,
        commit=here.commit(),
        machine=machine,
        rounds=request.bench.rounds,
        seconds=request.bench.seconds,
        versions=versions,
        figures=figures,
        absent=absent,
    )


def chosen(lineup: Lineup, parts: tuple[str, ...]) -> Lineup:
    """``lineup`` with the servers whose name contains one of ``parts``, in any case; ``SystemExit`` if none does."""
    wanted = [part.lower() for part in parts]
    servers = tuple(one for one in lineup.servers if not parts or any(part in one.name.lower() for part in wanted))
    if not servers:
        raise SystemExit(f"bench: no server is named like that; there are {', '.join(lineup.names)}")
    return Lineup(servers, lineup.scenarios, lineup.model)


def _lineup(name: str) -> Callable[[Request], Measured]:
    def run(request: Request) -> Measured:
        lineup = chosen(LINEUPS[name], request.servers)
        notebook, versions, absent = served.measure(lineup, request.bench)
        return notebook.figures(lineup.names), versions, absent

    return run


def _cache(request: Request) -> Measured:
    """Answers from memory, and the time of a key: microseconds, one row of ``KEY_FEATURES`` packed FP32 features."""
    lineup = chosen(CACHED, request.servers)
    notebook, versions, absent = served.measure(lineup, request.bench)
    names = tuple(f"feature_{position}" for position in range(KEY_FEATURES))
    signature = ModelSignature(
        tuple(Feature(name, "FP32") for name in names),
        (TensorSpec("input", "FP32", (-1, KEY_FEATURES), names),),
        (TensorSpec("score", "FP32", (-1,)),),
    )
    maker = KeyMaker((KEELWAY, "1.0.0", "sha256:0", "1"), signature)
    inputs = {"input": np.linspace(-1, 1, KEY_FEATURES, dtype=np.float32).reshape(1, -1)}
    for _ in range(request.bench.rounds):
        notebook.add("key", KEELWAY, key=microseconds(partial(maker.key, inputs, ("score",), None), 100_000))
    return notebook.figures(lineup.names), versions, absent


def _guard(request: Request) -> Measured:
    lineup = chosen(guarded.GUARDED, request.servers)
    notebook, versions, absent = guarded.measure(request.bench, lineup)
    guards.measure(notebook, request.bench.rounds)
    return notebook.figures(lineup.names), versions, absent


def _python(request: Request) -> Measured:
    """One-row calls: the converted model in ONNX Runtime against scikit-learn's own call; microseconds."""
    notebook = Notebook()
    for name, model in request.bench.models.items():
        if name == HEAVY:  # nobody has trained it
            continue
        row = model.rows.iloc[:1]
        trained, converted = joblib.load(model.pipeline), _session(model)
        array = row.to_numpy(np.float32)
        for _ in range(request.bench.rounds):
            theirs = microseconds(partial(trained.predict_proba, row), 40)
            ours = microseconds(partial(converted, array), 10_000)
            notebook.add(f"{name} ({row.shape[1]} features)", "call", sklearn=theirs, converted=ours)
    return notebook.figures(), _versions(), {}


def _session(model: Model) -> Callable[[Any], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.onnx, options, providers=["CPUExecutionProvider"])
    outputs, tensor = [output.name for output in session.get_outputs()], session.get_inputs()[0].name
    return lambda array: session.run(outputs, {tensor: array})


def microseconds(call: Callable[[], Any], count: int) -> float:
    """Mean of ``count`` calls after three others."""
    for _ in range(3):
        call()
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count * 1e6


def _command(request: Request) -> Measured:
    """CPU seconds of ``keelway --help``, user and system."""
    notebook = Notebook()
    for _ in range(max(request.bench.rounds, 5)):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([KEELWAY_COMMAND, "--help"], check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        notebook.add("help", KEELWAY, cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return notebook.figures(), _versions(), {}


def _growth(request: Request) -> Measured:
    """Resident memory over many requests, after a warm-up of a tenth of them; MiB."""
    bench, notebook = request.bench, Notebook()
    one, model = served.keelway_of(REST), bench.models["forest"]
    scenario = Scenario(1, GROWTH_CONNECTIONS)
    with served.started(one, Path(sys.executable), model, bench.scratch) as running:
        reply = served.check(one, running, model, 1)

        def load(seconds: float) -> int:
            return served.apply(one, running, model, bench, scenario, reply, seconds).requests

        warm = 0
        while warm < request.requests / 10:
            warm += load(min(GROWTH_SECONDS, 3.0))
        before, done = weight(running.process).resident, 0
        while done < request.requests:
            done += load(GROWTH_SECONDS)
        after = weight(running.process).resident
    notebook.add("growth", KEELWAY, requests=done, before=before, after=after)
    return notebook.figures(), _versions(), {}


def _overload(request: Request) -> Measured:
    return overload.measure(request.bench).figures(), _versions(), {}


def _workers(request: Request) -> Measured:
    """Memory of 1 and of 4 workers with a dense model; MiB. Memory varies little: one round in five."""
    notebook = workers.measure(request.bench.scratch, max(1, request.bench.rounds // 5))
    return notebook.figures(), _versions(), {}


def _versions() -> dict[str, str]:
    return {KEELWAY: ", ".join(f"{name} {version(name)}" for name in _PACKAGES)}


SECTIONS: Mapping[str, tuple[str, Callable[[Request], Measured]]] = {
    "rest": ("REST: every server, one row and 32 rows; start time and memory", _lineup("rest")),
    "grpc": ("gRPC: the servers that speak it, one row and 32 rows", _lineup("grpc")),
    "leads": ("a scikit-learn pipeline of 85 columns, served converted and as it is", _lineup("leads")),
    "batching": ("a model that gains from batches: servers that batch, idle and busy", _lineup("batching")),
    "overload": ("the same model at its limit and beyond, with deadlines; keelway alone", _overload),
    "turns": ("the forest with and without runs shared in a turn of the loop", _lineup("turns")),
    "cache": ("an answer from memory beside the least that HTTP takes, and the time of a key", _cache),
    "guard": ("the forest with credentials, limits, constraints and anomaly tags, and without", _guard),
    "python": ("one row: the converted model against scikit-learn, without a server", _python),
    "command": ("CPU time of `keelway --help`", _command),
    "workers": ("memory of 1 and of 4 workers with a dense model of 500 MB, weights shared or not", _workers),
    "growth": ("memory over many requests", _growth),
}
