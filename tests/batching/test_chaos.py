"""A served model in bad times: rows that make it fail, callers who leave, more requests than it can answer.

Every answer is compared with the direct one. # T1 T2 T3
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.serving import PATIENCE, SCORE_SIGNATURE, Item, Server, Shelf, predict_bytes, request_bytes, wait_until

from keelway.testing import FakeRuntime
from keelway.types import Array

GUILTY = -1.0
BASE, PER_ROW = 0.002, 0.0002


def runtime() -> FakeRuntime:
    """Two milliseconds, and a fifth of one for each row; a row that begins with ``GUILTY`` makes it raise."""

    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        rows = inputs["input"]
        time.sleep(BASE + PER_ROW * len(rows))
        if (rows[:, 0] == GUILTY).any():
            raise ValueError("a guilty row")
        return {"score": rows.sum(axis=1)}

    return FakeRuntime(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, run, thread_safe=True)


@contextmanager
def served(**settings: Mapping[str, Any]) -> Iterator[Server]:
    with Server(Shelf().put("m", "1.0.0", Item(runtime)).want("m", "1.0.0"), **settings) as server:
        batching = server.get("/v1/models/m").json["batching"]
        assert batching["policy"] == "slots"
        assert batching["max_batch_size"] > 8
        yield server


class Caller(threading.Thread):
    """Asks ``count`` times, as its own dice say. ``codes`` counts what it was told, ``wrong`` has what must not be."""

    def __init__(self, server: Server, seed: int, count: int, chaos: bool = True, *headers: tuple[str, str]) -> None:
        super().__init__(name=f"caller-{seed}", daemon=True)
        self.codes: Counter[str] = Counter()
        self.waits: list[float] = []
        self.wrong: list[Any] = []
        self._server = server
        self._random = random.Random(seed)
        self._seed = seed
        self._count = count
        self._chaos = chaos
        self._headers = headers

    def run(self) -> None:
        try:
            wire = self._server.wire()
            for turn in range(self._count):
                if self._ask(wire, turn):
                    wire.reset()
                    wire = self._server.wire()
            wire.close()
        except Exception as error:  # noqa: BLE001 - the test's thread looks at it
            self.wrong.append(error)

    def _ask(self, wire: Any, turn: int) -> bool:
        """One request; whether its caller has left without waiting."""
        dice = self._random.random() if self._chaos else 1.0
        rows = [
            [float(self._seed * 1000 + turn), float(place)] for place in range(self._random.choice((1, 1, 1, 2, 5)))
        ]
        headers = list(self._headers)
        if dice < 0.1:
            rows[self._random.randrange(len(rows))][0] = GUILTY
        elif dice < 0.3:
            headers.append(("X-Request-Timeout", self._random.choice(("3ms", "8ms", "20ms"))))
        elif dice < 0.4:
            headers.append(("X-Request-Priority", "batch"))
        elif dice < 0.5:
            rows *= 40
        body = _tensors(rows)
        began = time.monotonic()
        wire.send(request_bytes("POST", "/v2/models/m/infer", body, *headers))
        if 0.5 <= dice < 0.6:
            time.sleep(self._random.random() * 0.005)
            self.codes["left"] += 1
            return True
        reply = wire.reply()
        self.waits.append(time.monotonic() - began)
        self.codes[str(reply.status)] += 1
        if reply.status == 200:
            if reply.json["outputs"][0]["data"] != [sum(row) for row in rows] or dice < 0.1:
                self.wrong.append((rows, reply))
        elif reply.status == 500:
            if dice >= 0.1:
                self.wrong.append((rows, reply))
        elif reply.status == 503:
            if int(reply.headers["retry-after"]) < 1:
                self.wrong.append(reply)
        elif reply.status != 504 or "X-Request-Timeout" not in dict(headers):
            self.wrong.append((rows, reply))
        return False


def _tensors(rows: Sequence[Sequence[float]]) -> bytes:
    flat = ",".join(str(value) for row in rows for value in row)
    return b'{"inputs":[{"name":"input","datatype":"FP32","shape":[%d,2],"data":[%s]}]}' % (len(rows), flat.encode())


def together(callers: Sequence[Caller], patience: float = 4 * PATIENCE) -> Counter[str]:
    for caller in callers:
        caller.start()
    ends = time.monotonic() + patience
    for caller in callers:
        caller.join(max(0.0, ends - time.monotonic()))
        assert not caller.is_alive(), "a caller still waits"
    assert [wrong for caller in callers for wrong in caller.wrong] == []
    return sum((caller.codes for caller in callers), Counter())


def assert_at_rest(server: Server) -> None:
    wait_until(lambda: server.in_flight() == 0, "all permits to come back")
    assert server.metric("ml_queue_rows", model="m") == 0
    assert server.post("/v1/models/m/predict", {"instances": [{"age": 1, "income": 2}]}).json["predictions"] == [3.0]


def test_no_answer_is_mixed_or_lost_whatever_the_neighbours_do() -> None:
    with served() as server:
        codes = together([Caller(server, seed, 40) for seed in range(1, 17)])
        assert_at_rest(server)
        runs, rows = server.metric("ml_batch_size_count", model="m"), server.metric("ml_batch_size_sum", model="m")
        waits = server.metric("ml_queue_delay_seconds_count", model="m")
    assert codes["200"] > 300
    assert codes["500"] > 20
    assert codes["left"] > 20
    assert rows > 2 * runs
    assert waits > 300


@pytest.mark.slow
def test_a_minute_of_it_leaves_nothing_behind() -> None:
    with served() as server:
        codes = together([Caller(server, seed, 600) for seed in range(1, 25)], patience=300)
        assert_at_rest(server)
    assert codes["200"] > 24 * 250


def test_under_overload_who_is_let_in_is_answered_in_time_and_the_others_hear_at_once() -> None:
    """Threads of this process load it, so that it is no measurement: ``test_batcher.py`` counts on a clock of its own,
    ``benchmarks`` on two cores."""
    with served(runtime={"slots": 1}, batching={"max_batch_size": 32}) as server:
        callers = [Caller(server, seed, 10, False, ("X-Request-Timeout", "50ms")) for seed in range(1, 121)]
        codes = together(callers)
        assert_at_rest(server)
        shed = server.metric("ml_requests_shed_total")
    assert set(codes) <= {"200", "503", "504"}
    assert codes["200"] > 100
    assert shed >= codes["503"] * 0.9


def test_interactive_requests_are_served_before_batch_requests() -> None:
    with served(runtime={"slots": 1}, batching={"max_batch_size": 32}) as server:
        batch = [Caller(server, seed, 30, False, ("X-Request-Priority", "batch")) for seed in range(1, 41)]
        for caller in batch:
            caller.start()
        wait_until(lambda: server.metric("ml_queue_rows", model="m") > 0, "a queue")
        interactive = Caller(server, 99, 20, False)
        codes = together([interactive])
        for caller in batch:
            caller.join(PATIENCE)
    assert codes == {"200": 20}
    assert np.median(interactive.waits) < np.median([wait for caller in batch for wait in caller.waits])


def test_a_priority_that_is_none_is_refused() -> None:
    with served() as server, server.wire() as wire:
        reply = wire.ask(predict_bytes(("X-Request-Priority", "urgent")))
        assert (reply.status, "interactive or batch" in reply.json["detail"]) == (400, True)
        assert wire.ask(predict_bytes(("X-Request-Priority", "Batch"))).status == 200


def test_a_drain_answers_what_is_waiting() -> None:
    with served(runtime={"slots": 1}) as server:
        body = predict_bytes()
        wires = [server.wire() for _ in range(30)]
        for wire in wires:
            wire.send(body)
        wait_until(lambda: server.metric("ml_queue_delay_seconds_count", model="m") >= 1, "the first run")
        server.begin_drain()
        answers = []
        for wire in wires:
            try:
                answers.append(wire.reply())
            except (TimeoutError, ConnectionError):
                answers.append(None)
            wire.close()
        server.wait_stopped()
    assert all(reply is None or (reply.status, reply.json["predictions"]) == (200, [3.0]) for reply in answers)
    assert sum(reply is not None for reply in answers) >= 1
