"""Versions change, models come and go, callers leave and deadlines pass, all at once and for a while."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import pytest
from tests.serving import (
    ROW,
    Item,
    Server,
    Shelf,
    predict_bytes,
    score,
    wait_until,
)

SECONDS = 8.0
VERSIONS = 5
PATIENT = 3


def until(end: float, work: Callable[[random.Random], None], seed: int, wrong: list[object]) -> Callable[[], None]:
    def run() -> None:
        chance = random.Random(seed)
        try:
            while time.monotonic() < end:
                work(chance)
        except Exception as error:  # noqa: BLE001 - the test's thread looks at it
            wrong.append(error)

    return run


@pytest.mark.slow
def test_patient_callers_notice_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf().serve("steady", lambda: score(7)).serve("later", lambda: score(delay=0.02))
    for version in range(1, VERSIONS + 1):
        # Some answer later, some in a worker thread: all ways to run a model are there.
        shelf.put("m", f"{version}.0.0", Item(lambda v=version: score(1000 * v, delay=0.002 * (v % 2))))  # type: ignore[misc]
    shelf.want("m", "1.0.0")
    wrong: list[object] = []
    answered = [0] * PATIENT
    settings = {"allow_model_control": True, "drain_delay": 0.0}
    with Server(shelf, serving=settings, runtime={"inline_below_ms": 0.0}) as server:
        end = time.monotonic() + SECONDS
        wires = [server.wire() for _ in range(PATIENT)]

        def patient(position: int) -> Callable[[random.Random], None]:
            def work(chance: random.Random) -> None:
                name = chance.choice(["m", "steady"])
                reply = wires[position].ask(predict_bytes(path=f"/v1/models/{name}/predict"))
                document = reply.json
                expected = 10.0 if name == "steady" else 3.0 + 1000 * int(document.get("model_version", "0.")[0])
                if reply.status != 200 or document["predictions"] != [expected]:
                    wrong.append(reply)
                answered[position] += 1

            return work

        def impatient(chance: random.Random) -> None:
            wire = server.wire()
            data = predict_bytes(
                ("X-Request-Timeout", "5ms"), path=f"/v1/models/{chance.choice(['m', 'later'])}/predict"
            )
            wire.send(data[: chance.randrange(len(data) + 1)])
            time.sleep(chance.random() * 0.01)
            chance.choice([wire.close, wire.reset])()

        def promote(chance: random.Random) -> None:
            shelf.want("m", f"{chance.randint(1, VERSIONS)}.0.0")
            time.sleep(0.03)

        def come_and_go(chance: random.Random) -> None:
            for action in ("unload", "load"):
                assert server.post(f"/v2/repository/models/later/{action}", {}).status == 200
                time.sleep(chance.random() * 0.02)

        works = [*map(patient, range(PATIENT)), impatient, impatient, promote, come_and_go]
        threads = [threading.Thread(target=until(end, work, seed, wrong)) for seed, work in enumerate(works)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for wire in wires:
            wire.close()
        assert wrong == []
        assert min(answered) > 100
        wait_until(lambda: server.in_flight() == 0, "requests in flight")
        wait_until(lambda: sum(not runtime.closed for _, _, runtime in shelf.opened) == 3, "old runtimes to be closed")
        assert server.post("/v1/models/m/predict", {"instances": [ROW]}).status == 200
    assert {runtime.closed for _, _, runtime in shelf.opened} == {1}  # type: ignore[attr-defined]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
