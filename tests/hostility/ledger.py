"""The ledger: what the server held before an attack and what it holds after. Whatever is left over is a leak."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from tests.hostility.attack import FAILURES
from tests.hostility.served import Attacked, State
from tests.serving import PATIENCE, ask

#: What may stay: bounded memories (paths, hosts, metric labels) and threads that wait for work.
MORE_OBJECTS = 10_000
MORE_THREADS = 8
#: Bytes that an allocator keeps for the next time, however the attack went.
MORE_MEMORY = 96 << 20


class Counted(NamedTuple):
    """From the metrics: requests under way, answers that were failures, answers that were sheds."""

    in_flight: float
    failures: float
    unavailable: float
    shed: float


class Ledger:
    """``server`` as it is now; ``settle`` compares it with what it has become."""

    def __init__(self, server: Attacked) -> None:
        self._server = server
        self.before = server.state()
        self.counted = counted(server)
        self._logged = len(server.errors())

    def settle(self, patience: float = PATIENCE) -> State:
        """The state once the server is as it was. ``AssertionError`` naming what is left over after ``patience``
        seconds."""
        end = time.monotonic() + patience
        while leftovers := list(self._leftovers(after := self._server.state())):
            assert time.monotonic() < end, f"left over: {', '.join(leftovers)}\n" + "\n".join(self._server.tasks())
            time.sleep(0.05)
        now = counted(self._server)
        assert now.in_flight == 0, "requests are still in flight"
        assert now.failures == self.counted.failures, "the server failed to answer"
        shed = now.shed - self.counted.shed
        assert now.unavailable - self.counted.unavailable == shed, "503 was answered without being counted as a shed"
        assert self._server.errors()[self._logged :] == []
        return after

    def _leftovers(self, after: State) -> Iterator[str]:
        before = self.before
        allowed = State(0, MORE_THREADS, 0, MORE_OBJECTS, MORE_MEMORY)
        for name, was, now, more in zip(State._fields, before, after, allowed, strict=True):
            if now > was + more:
                yield f"{now - was} {name}"


def counted(server: Attacked) -> Counted:
    page = ask(server.url + "/metrics", "GET").body.decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    codes = [(s.labels["code"], s.value) for s in samples if s.name == "ml_requests_total"]
    return Counted(
        sum(s.value for s in samples if s.name == "ml_requests_in_flight"),
        sum(value for code, value in codes if code in FAILURES),
        sum(value for code, value in codes if code == "UNAVAILABLE"),
        sum(s.value for s in samples if s.name == "ml_requests_shed_total"),
    )
