"""What the guards add to a request of one row of 50 features, all at once: check of an API key, rate limit counted
in memory, constraints on every feature, and the anomaly tag of a detector that tells two classes apart.

Requests go along the real line in this process, gate to encoded answer, without a socket: through a data plane that has
all of them and one that has none. The model is a sum, so that nothing else varies. The lane of REST parses a head once
for each that differs, so that a key is looked up here as it is for a head that is known.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import msgspec
import numpy as np
import uvloop

from benchmarks.results import Notebook
from keelway.access import AuthSettings, JwtSettings
from keelway.batching.turn import TurnBatcher
from keelway.clock import SystemClock
from keelway.codecs.json import OpenInferenceCodec
from keelway.contract.anomaly import fit
from keelway.contract.binding import Binding
from keelway.contract.constraints import AnomalyRule, Constraint, Policy
from keelway.contract.signature import Feature, ModelSignature
from keelway.dataplane import DataPlane, InferenceCall
from keelway.guard.admission import Admission
from keelway.guard.auth import Authenticator, Credentials, Guarded, OpenToAll
from keelway.guard.gate import Gate
from keelway.guard.keys import digest_of, make_key
from keelway.guard.rate_rules import parse_rules
from keelway.guard.ratelimit import RateLimiter
from keelway.guard.validation import Validator
from keelway.observe.metrics import RunMeters, ServingMetrics
from keelway.observe.records import RecordRing
from keelway.routing.snapshot import ServedModel, ServedVersion, ServingSnapshot
from keelway.types import Array, InferenceRecord, Peer, Priority, StoredKey, TensorSpec

FEATURES = 50
#: How many requests come in one turn of the loop, and the most microseconds that guards may add to each.
ARRIVALS: Mapping[str, tuple[int, float]] = {"16 requests in a turn": (16, 12.0), "alone": (1, 25.0)}
GUARDS = "guards"
_BLOCKS, _REQUESTS = 30, 320
_SECRET = "a secret that is good for nothing but a benchmark"
_PEER = Peer("192.0.2.1")
_NAMES = tuple(f"feature_{position}" for position in range(FEATURES))
_SIGNATURE = ModelSignature(
    tuple(Feature(name, "FP32") for name in _NAMES),
    (TensorSpec("input", "FP32", (-1, FEATURES), _NAMES),),
    (TensorSpec("score", "FP32", (-1,)),),
)


class _Sum:
    inputs, outputs, thread_safe = _SIGNATURE.inputs, _SIGNATURE.outputs, True

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        return [inputs["input"].sum(axis=1)]

    def close(self) -> None: ...


class Door:
    """A request line, and who is let in."""

    def __init__(self, *, guarded: bool, most: int) -> None:
        random = np.random.default_rng(0)
        classes = random.integers(0, 2, 4_000)
        rows = random.normal(size=(4_000, FEATURES))
        rows[:, 1] = 0.1 * rows[:, 1] + np.where(classes > 0, rows[:, 0], -rows[:, 0])
        clock, metrics, validator, key = SystemClock(), ServingMetrics(), Validator(_SIGNATURE, _OFF, None), make_key()
        self._authenticator: Authenticator = OpenToAll()
        limiter = None
        if guarded:
            detector = fit(rows, _NAMES, classes)
            assert detector is not None
            assert len(detector.centres) == 2
            validator = Validator(_SIGNATURE, _ON, None, detector)
            limiter = RateLimiter(parse_rules(["1000000000 requests/minute per principal"]), clock, most=1000)
            digest = digest_of(key.text.encode(), _SECRET.encode())
            authenticator = Guarded(AuthSettings(key_secret=_SECRET), JwtSettings(), clock)
            authenticator.renew_keys([StoredKey(key.id, "bench", digest, ("predict:*",))])
            self._authenticator = authenticator
        self._credentials: Credentials = self._authenticator.present([(b"x-api-key", key.text.encode())])
        self._gate = Gate(Admission(1000), limiter)
        self._ring = RecordRing(100)
        self._plane = DataPlane(self._gate, metrics, self._ring, clock)
        names = ("churn", "1.0.0")
        runtime = _Sum()
        version = ServedVersion(
            *names,
            "sha256:0",
            1,
            _SIGNATURE,
            Binding(_SIGNATURE, 10),
            validator,
            runtime,
            None,
            batcher=TurnBatcher(runtime.run, most, RunMeters(metrics, *names)) if most > 1 else None,
        )
        self._plane.snapshot = ServingSnapshot({names[0]: ServedModel(names[0], {names[1]: version}, names[1])})
        self._codec = OpenInferenceCodec()
        self._bodies = [_body(row) for row in rows[:200] * 0.5]
        self._next = 0

    async def turn(self, count: int) -> None:
        """``count`` requests, one row each, that are there at once."""
        under_way = []
        for _ in range(count):
            self._next = (self._next + 1) % len(self._bodies)
            principal = self._authenticator.principal(self._credentials, _PEER)
            refused = self._gate.enter(Priority.INTERACTIVE, principal, _PEER)
            assert refused is None
            call = InferenceCall(
                "churn",
                None,
                self._codec,
                self._bodies[self._next],
                "rest_v2",
                "bench",
                time.monotonic() + 60,
                principal=principal,
                peer=_PEER,
            )
            under_way.append((principal, self._plane.infer(call)))
        for principal, answer in under_way:
            if hasattr(answer, "future"):
                await answer.future()
            self._gate.leave(principal)

    def records(self) -> Sequence[InferenceRecord]:
        """Of the latest requests, and then forgotten."""
        return self._ring.take()

    async def microseconds(self, count: int) -> float:
        """Of one request, of many that come ``count`` at a time."""
        began = time.perf_counter()
        for _ in range(_REQUESTS // count):
            await self.turn(count)
        return (time.perf_counter() - began) / _REQUESTS * 1e6


def measure(notebook: Notebook, rounds: int) -> None:
    """For each of ``ARRIVALS`` and each of ``rounds``: what a request takes with the guards and without them, in
    microseconds, and the difference; medians of blocks that take turns."""
    for _ in range(rounds):
        for scenario, (count, _most) in ARRIVALS.items():
            notebook.add(scenario, GUARDS, **_once(count))


class _Apart:
    """A door in a process of its own, for ``with``. In one process, each would be what makes the other's code slow: the
    interpreter specialises it for the objects that it meets, and a server meets one kind."""

    def __init__(self, *, guarded: bool, count: int) -> None:
        context = get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_blocks, args=(other, guarded, count), daemon=True)

    def __enter__(self) -> _Apart:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(10)

    def microseconds(self) -> float:
        """Of a request of the next block."""
        self._pipe.send(True)
        return float(self._pipe.recv())


def _blocks(pipe: Connection, guarded: bool, count: int) -> None:
    """In the other process: a block each time it is asked for one."""

    async def run() -> None:
        door = Door(guarded=guarded, most=count)
        while True:
            pipe.recv()
            pipe.send(await door.microseconds(count))

    with suppress(EOFError):
        uvloop.run(run())


def _once(count: int) -> dict[str, float]:
    pairs: list[tuple[float, float]] = []
    with _Apart(guarded=True, count=count) as guarded, _Apart(guarded=False, count=count) as bare:
        for block in range(_BLOCKS + 2):
            if block % 2:
                one = guarded.microseconds()
                pairs.append((one, bare.microseconds()))
            else:
                other = bare.microseconds()
                pairs.append((guarded.microseconds(), other))
    pairs = pairs[2:]
    return {
        "on": median(on for on, _ in pairs),
        "off": median(off for _, off in pairs),
        "added": median(on - off for on, off in pairs),
    }


def _body(row: Any) -> bytes:
    tensor = {"name": "input", "shape": [1, FEATURES], "datatype": "FP32", "data": row.round(4).tolist()}
    return msgspec.json.encode({"inputs": [tensor]})


_ON = Policy(1, tuple(Constraint(name, -1e6, 1e6) for name in _NAMES), AnomalyRule("tag"))
_OFF = Policy(1, (), AnomalyRule("off"))
