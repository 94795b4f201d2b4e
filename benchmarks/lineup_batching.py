"""Who is measured with a model that gains from batches, and keelway with and without runs shared in a turn of its loop.
Pure data, as ``lineup``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import bodies
from benchmarks.lineup import KEELWAY, KEELWAY_SETTINGS, OWN, REST, SERVE, Lineup, Scenario, Server

BATCH = 32
ONE_BY_ONE = "keelway, one by one"

#: Of the section overload: what loads the server, and what is promised. The share of the capacity at saturation, the
#: share that is answered in time under overload, and the 99th percentile of those answers in milliseconds.
SATURATION = Scenario(1, 4 * BATCH)
TIMES, ALLOWED_MS = 1.5, 50
SATURATED, GOODPUT, P99_MS = 0.95, 0.80, 60.0

_JOINING = (("BENCH_BATCH", str(BATCH)),)
_WAIT = "at most 5 ms of waiting for one"
_HEAVY_PATH = "/v2/models/heavy/infer"
_HEAVY = tuple("heavy" if word == "forest" else word for word in SERVE)


def _peer(name: str) -> Server:
    return next(server for server in REST.servers if server.name == name)


BATCHING = Lineup(
    servers=(
        Server(KEELWAY, _HEAVY, bodies.V2, _HEAVY_PATH, packages=OWN, settings=KEELWAY_SETTINGS),
        Server(
            ONE_BY_ONE,
            _HEAVY,
            bodies.V2,
            _HEAVY_PATH,
            packages=OWN,
            settings="the same with `batching.max_batch_size` 1",
            environment=(("KEELWAY_BATCHING_MAX_BATCH_SIZE", "1"),),
        ),
        replace(
            _peer("mosec"),
            environment=_JOINING,
            settings=f"one worker, batches of at most {BATCH}, {_WAIT}",
        ),
        replace(
            _peer("MLServer"),
            environment=_JOINING,
            settings=f"as above with `max_batch_size` {BATCH} and `max_batch_time` 0.005",
            counter=None,
        ),
        replace(
            _peer("LitServe"),
            environment=_JOINING,
            settings=f"one worker, batches of at most {BATCH}, {_WAIT}",
        ),
        replace(
            _peer("BentoML"),
            environment=_JOINING,
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
            ONE_BY_ONE,
            SERVE,
            bodies.V2,
            packages=OWN,
            settings="the same with `runtime.micro_batch_rows` 1",
            environment=(("KEELWAY_RUNTIME_MICRO_BATCH_ROWS", "1"),),
        ),
    ),
    scenarios=(Scenario(1, 1), Scenario(1, 16), Scenario(1, 64)),
)
