"""Who is measured with a model that gains from batches, and keelway with and without runs shared in a turn of its loop.
Pure data, as ``lineup``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import bodies
from benchmarks.lineup import BENTOML, KEELWAY, KEELWAY_SETTINGS, MLSERVER, OWN, REST, SERVE, Lineup, Scenario, Server
from benchmarks.lineup import module as python_module

BATCH = 32
ALONE = "keelway, one by one"

#: Of the section overload: what loads the server, and what is promised. The share of the capacity at saturation, the
#: share that is answered in time under overload, and the 99th percentile of those answers in milliseconds.
SATURATION = Scenario(1, 4 * BATCH)
TIMES, ALLOWED_MS = 1.5, 50
SATURATED, GOODPUT, P99_MS = 0.95, 0.80, 60.0

_WAIT = "at most 5 ms of waiting for one"
_HEAVY_PATH = "/v2/models/heavy/infer"
_HEAVY = tuple("heavy" if word == "forest" else word for word in SERVE)


def _with(command: tuple[str, ...], **environment: str) -> tuple[str, ...]:
    return ("env", *(f"{name}={value}" for name, value in environment.items()), *command)


def _peer(name: str) -> Server:
    return next(server for server in REST.servers if server.name == name)


BATCHING = Lineup(
    servers=(
        Server(KEELWAY, _HEAVY, bodies.V2, _HEAVY_PATH, packages=OWN, settings=KEELWAY_SETTINGS),
        Server(
            ALONE,
            _with(_HEAVY, KEELWAY_BATCHING_MAX_BATCH_SIZE="1"),
            bodies.V2,
            _HEAVY_PATH,
            packages=OWN,
            settings="the same with `batching.max_batch_size` 1",
        ),
        replace(
            _peer("mosec"),
            command=_with(
                (*python_module("mosec_app"), "--address", "127.0.0.1", "--port", "{http}"), BENCH_BATCH=str(BATCH)
            ),
            settings=f"one worker, batches of at most {BATCH}, {_WAIT}",
        ),
        replace(
            _peer("MLServer"),
            command=_with(MLSERVER, BENCH_BATCH=str(BATCH)),
            settings=f"as above with `max_batch_size` {BATCH} and `max_batch_time` 0.005",
            counter=None,
        ),
        replace(
            _peer("LitServe"),
            command=_with(python_module("litserve_app", "{http}"), BENCH_BATCH=str(BATCH)),
            settings=f"one worker, batches of at most {BATCH}, {_WAIT}",
        ),
        replace(
            _peer("BentoML"),
            command=_with((*BENTOML, "--host", "127.0.0.1", "--port", "{http}"), BENCH_BATCH=str(BATCH)),
            settings=f"as above with `batchable`, batches of at most {BATCH} and its own adaptive wait",
        ),
    ),
    scenarios=(Scenario(1, 1), Scenario(1, 16), Scenario(1, 128)),
    model="heavy",
)

TURNS = Lineup(
    servers=(
        Server(KEELWAY, SERVE, bodies.V2, packages=OWN, settings=KEELWAY_SETTINGS),
        Server(
            ALONE,
            _with(SERVE, KEELWAY_RUNTIME_MICRO_BATCH_ROWS="1"),
            bodies.V2,
            packages=OWN,
            settings="the same with `runtime.micro_batch_rows` 1",
        ),
    ),
    scenarios=(Scenario(1, 1), Scenario(1, 16), Scenario(1, 64)),
)
