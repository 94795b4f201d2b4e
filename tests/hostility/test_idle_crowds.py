"""Ten thousand connections that say nothing any more: all stay, they cost memory and nothing else, and nothing of them
is left over when they go. # R3 R4
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.hostility.attack import sizes
from tests.hostility.conftest import IDLE, warm_up
from tests.hostility.idle import KINDS, OTHERS, Crowd, descriptors
from tests.hostility.ledger import Ledger
from tests.hostility.neighbour import Neighbour
from tests.hostility.served import Attacked
from tests.serving import PATIENCE, Wire, predict_bytes

#: What one idle connection may cost the server, in bytes. The run prints what it is.
MOST_BYTES = {"HTTP/1.1": 24_000, "HTTP/2": 32_000}
ASKED = 1000


@pytest.fixture(scope="module")
def roomy() -> Iterator[Attacked]:
    """A server with room for all of them."""
    descriptors()
    http = {"max_connections": 20_000, "keep_alive_timeout": 600.0, "header_timeout": PATIENCE}
    with Attacked(http=http) as server:
        warm_up(server)
        yield server


def latencies(port: int) -> list[float]:
    """Seconds of each of ``ASKED`` questions, one behind the other, sorted."""
    taken = []
    with Wire(port) as wire:
        for _ in range(ASKED):
            begun = time.perf_counter()
            assert wire.ask(predict_bytes()).status == 200
            taken.append(time.perf_counter() - begun)
    return sorted(taken)


def in_words(taken: list[float]) -> str:
    middle, high = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
    return f"p50 {middle * 1e6:,.0f} µs, p99 {high * 1e6:,.0f} µs, longest {taken[-1] * 1e3:,.1f} ms"


@pytest.mark.parametrize("kind", list(KINDS))
@sizes("count", quick=500, slow=10_000)
def test_idle_connections_cost_memory_and_nothing_else(
    roomy: Attacked, kind: str, count: int, record_property: Any
) -> None:
    count = min(count, descriptors() - OTHERS)
    ledger = Ledger(roomy)
    alone = latencies(roomy.port)
    with Crowd(roomy.port, kind, count) as crowd:
        assert crowd.answered == count
        memory = (roomy.state().memory - ledger.before.memory) / count
        with Neighbour(roomy.port) as neighbour:
            beside = latencies(roomy.port)
            time.sleep(1.5)  # the clock looks at all of them once a second
        assert crowd.alive() == count
        assert roomy.state().descriptors >= ledger.before.descriptors + count
    ledger.settle()
    assert neighbour.harm == []
    record_property(
        IDLE,
        f"{count:,} of {kind}: {memory / 1024:.1f} KiB each; a caller alone: {in_words(alone)}; beside them: "
        f"{in_words(beside)}; the slowest of {sum(neighbour.answers.values())} answers to a neighbour "
        f"{neighbour.slowest * 1e3:.1f} ms",
    )
    if count >= 5000:  # of fewer, what an allocator keeps says more than they do
        assert memory < MOST_BYTES[kind]
    # Slack for a busy machine: a server that looked at all of them for each request would take many times as long.
    assert beside[ASKED // 2] < 3 * alone[ASKED // 2] + 0.002
