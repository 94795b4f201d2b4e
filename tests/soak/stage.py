"""The stage of a soak: a registry, the Valkey behind its wire, and two servers that share both.

``workers`` is served by two processes under a supervisor, which are killed and reloaded; ``single`` by one that lives
from the first second to the last, and whose memory is the one to look at.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from tests.soak.callers import BODY_TIMEOUT, Load, Target
from tests.soak.faults import Faults
from tests.soak.judging import LIMIT, Tally
from tests.soak.memory import Scales
from tests.soak.models import FOREST, Subject, push
from tests.supervise.served import Served, Shop, read_metric
from tests.valkey import SlowWire, Valkey

WORKERS, SINGLE = "workers", "single"
#: Seconds for the servers to come to rest at the end.
_REST = 30.0


def settings(redis: str) -> dict[str, dict[str, Any]]:
    """Small queues and caches, so that both are full soon and all the time."""
    return {
        "http": {"address": "127.0.0.1:0", "body_timeout": BODY_TIMEOUT},
        "grpc": {"address": "127.0.0.1:0"},
        "limits": {"request_timeout": LIMIT, "max_in_flight": 128},
        "batching": {"max_queue_rows": 256},
        "serving": {"drain_delay": 0.5, "drain_timeout": 15.0},
        "runtime": {"trusted_types": ["numpy.dtype"]},
        "cache": {
            "enabled": True,
            "max_bytes": 262_144,
            "ttl": 15.0,
            "negative_ttl": 2.0,
            "redis_url": redis,
            "redis_timeout": 0.1,
            "redis_pause": 0.5,
        },
    }


class Stage(NamedTuple):
    shop: Shop
    subjects: Sequence[Subject]
    valkey: Valkey
    wire: SlowWire
    targets: Sequence[Target]

    def processes(self) -> Mapping[str, Sequence[psutil.Process]]:
        """By role: what is weighed."""
        workers, single = (target.served for target in self.targets)
        return {
            "supervisor": [psutil.Process(workers.process.pid)],
            "worker": workers.workers(),
            "single": [psutil.Process(single.process.pid)],
        }

    def pages(self) -> dict[str, str]:
        """The metrics of each server, as text."""
        return {target.name: target.served.get("/metrics").body.decode() for target in self.targets}

    def unrest(self, champion: str) -> list[str]:
        """What is still going on in the servers after a while without a caller: nothing should be, and the forest that
        was promoted last should be served."""
        ends = time.monotonic() + _REST
        while True:
            found = [
                f"{name}: {metric} is {value:g}"
                for name, page in self.pages().items()
                for metric in ("ml_requests_in_flight", "ml_queue_rows")
                if (value := read_metric(page, metric))
            ] + [
                f"{target.name}: {version} of the forest is served and not {champion}"
                for target in self.targets
                if (version := target.served.get(f"/v1/models/{FOREST}").json["version"]) != champion
            ]
            if not found or time.monotonic() > ends:
                return found
            time.sleep(0.5)


@contextmanager
def set_up(folder: Path, seed: int) -> Iterator[Stage]:
    """All of it running in ``folder``; all of it ended afterwards, however."""
    shop = Shop(folder)
    subjects = push(shop, seed)
    names = [subject.name for subject in subjects]
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey(folder, "--maxmemory-policy", "noeviction"))
        wire = stack.enter_context(SlowWire(valkey.port))
        targets = []
        for name, workers in ((WORKERS, 2), (SINGLE, 1)):
            served = Served(shop, names, (), workers, settings(wire.url), name)
            targets.append(Target(name, stack.enter_context(served)))
        yield Stage(shop, subjects, valkey, wire, targets)


class Soaked(NamedTuple):
    """What a soak has found."""

    seconds: float
    tally: Tally
    faults: Faults
    scales: Scales
    unanswered: Sequence[str]
    unfelt: Sequence[str]
    unrest: Sequence[str]
    pages: Mapping[str, str]
    logged: Mapping[str, int]


def soak(stage: Stage, seconds: float, seed: int, progress: Any) -> Soaked:
    """Load and faults for so long; ``progress`` is told each second how things stand."""
    tally, scales = Tally(), Scales(stage.processes)
    began = time.monotonic()
    load = Load(stage.targets, stage.subjects, tally, seed)
    faults = Faults(stage.shop, stage.valkey, stage.wire, stage.targets[0], seconds, seed)
    with load, faults:
        turn = 0
        while (now := time.monotonic() - began) < seconds:
            scales.weigh(now)
            progress(now, tally, faults, scales)
            turn += 1
            time.sleep(max(0.0, began + turn - time.monotonic()))
    unrest = stage.unrest(faults.champion)
    scales.weigh(time.monotonic() - began)
    pages = stage.pages()
    return Soaked(
        seconds, tally, faults, scales, tally.unanswered(load.lanes()), faults.unfelt(pages), unrest, pages,
        logged(stage),
    )  # fmt: skip


def logged(stage: Stage) -> dict[str, int]:
    """How often each error was logged, by server and its first words."""
    found: dict[str, int] = {}
    for target in stage.targets:
        for line in target.served.lines:
            if line.get("level", "error").lower() in ("error", "critical"):
                words = f"{target.name}: {line['message'][:100]}"
                found[words] = found.get(words, 0) + 1
    return found
