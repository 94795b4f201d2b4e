"""One run for what one turn of the loop has read: nobody gets another's answer, and only the guilty fail. # T1 T3"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.batching.world import Meters
from tests.serving import Item, Server, Shelf, forest, forest_item, score

from keelway.batching.policy import Outcome, Share
from keelway.batching.turn import TurnBatcher
from keelway.types import Array

BAD = -1.0


class Model:
    """Answers each row with its sum; fails on a row that begins with ``BAD``. Keeps the rows of every run."""

    def __init__(self, short: bool = False) -> None:
        self.runs: list[int] = []
        self._short = short

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        rows = inputs["x"]
        self.runs.append(len(rows))
        if (rows[:, 0] == BAD).any():
            raise ValueError("a bad row")
        return [rows.sum(axis=1)[: -1 if self._short and len(rows) > 1 else None] for _ in outputs]


def submit(batcher: TurnBatcher, rows: Array, settled: list[Outcome], gone: bool = False) -> None:
    batcher.submit(Share({"x": rows}, len(rows), ("y",), settled.append, lambda: gone))


def settle(model: Model, *requests: Array, most: int = 64, gone: Sequence[int] = ()) -> list[list[Outcome]]:
    """What became of ``requests`` that were submitted in one turn; those at the places ``gone`` had left."""
    settled: list[list[Outcome]] = [[] for _ in requests]

    async def turn() -> None:
        batcher = TurnBatcher(model.run, most, Meters())
        for place, (rows, told) in enumerate(zip(requests, settled, strict=True)):
            submit(batcher, rows, told, place in gone)
        assert model.runs == []
        await asyncio.sleep(0)

    asyncio.run(turn())
    return settled


def rows(*values: float) -> Array:
    return np.array([[value, 1.0] for value in values])


def test_requests_of_one_turn_share_a_run_and_get_their_own_rows() -> None:
    model = Model()
    (one,), (two,), (three,) = settle(model, rows(1), rows(2, 3), rows(4))
    assert model.runs == [4]
    assert [outcome[0].tolist() for outcome in (one, two, three)] == [[2], [3, 4], [5]]  # type: ignore[index]


def test_a_request_that_comes_alone_is_run_alone_at_once() -> None:
    model = Model()
    settle(model, rows(1))
    assert model.runs == [1]


class Turns:
    """A batcher and how many of its requests waited for the end of their turn."""

    def __init__(self) -> None:
        self.waited: list[bool] = []
        self._batcher = TurnBatcher(Model().run, 64, Meters())

    async def turn(self, *requests: Array) -> None:
        for request in requests:
            waits = not self._batcher.declines(len(request))
            self.waited.append(waits)
            if waits:
                submit(self._batcher, request, [])
        await asyncio.sleep(0)


def test_who_comes_alone_again_and_again_need_not_wait_for_his_turn_to_end() -> None:
    async def scenario() -> None:
        turns = Turns()
        for _ in range(1000):
            await turns.turn(rows(1))
        assert all(turns.waited[:8])
        assert sum(turns.waited[100:]) / 900 < 0.03

    asyncio.run(scenario())


def test_company_is_noticed_soon_and_then_every_turn_is_shared() -> None:
    async def scenario() -> None:
        turns = Turns()
        for _ in range(1000):
            await turns.turn(rows(1))
        for _ in range(20):
            await turns.turn(*[rows(1)] * 16)
        turns.waited.clear()
        for _ in range(20):
            await turns.turn(*[rows(1)] * 16)
        assert all(turns.waited)
        # A few lonely turns in between change nothing.
        for _ in range(5):
            await turns.turn(rows(1))
        await turns.turn(rows(1), rows(2))
        assert all(turns.waited)

    asyncio.run(scenario())


def test_a_request_as_large_as_a_run_is_run_by_itself() -> None:
    assert TurnBatcher(Model().run, 64, Meters()).declines(64)
    assert not TurnBatcher(Model().run, 64, Meters()).declines(63)


def test_only_the_guilty_request_fails() -> None:
    settled = settle(Model(), *(rows(BAD if place == 5 else place) for place in range(9)))
    failed = [place for place, (outcome,) in enumerate(settled) if isinstance(outcome, Exception)]
    assert failed == [5]


def test_an_answer_that_is_too_short_is_nobodys() -> None:
    """A model that loses rows of a batch answers one by one, as it does alone."""
    settled = settle(Model(short=True), rows(1), rows(2))
    assert [outcome[0].tolist() for (outcome,) in settled] == [[2], [3]]  # type: ignore[index]


def test_who_has_left_is_not_run_for() -> None:
    model = Model()
    settled = settle(model, rows(1), rows(2), rows(3), gone=[1])
    assert model.runs == [2]
    assert settled[1] == [()]


REQUESTS = st.lists(
    st.lists(st.sampled_from([BAD, 1.0, 2.0, 3.0]), min_size=1, max_size=4).map(lambda values: rows(*values)),
    max_size=10,
)


@given(REQUESTS, st.integers(1, 6), st.sets(st.integers(0, 9)))
def test_every_request_is_settled_once_with_what_it_would_get_alone(
    requests: list[Array], most: int, gone: set[int]
) -> None:
    settled = settle(Model(), *requests, most=most, gone=sorted(gone))
    for place, (request, told) in enumerate(zip(requests, settled, strict=True)):
        (outcome,) = told
        if place in gone:
            assert outcome == ()
        elif (request[:, 0] == BAD).any():
            assert isinstance(outcome, ValueError)
        else:
            assert not isinstance(outcome, Exception)
            assert outcome[0].tolist() == request.sum(axis=1).tolist()


# In a server


def test_a_served_forest_shares_runs_and_every_caller_gets_its_own_answer() -> None:
    _, _, samples, _, probabilities = forest()
    with Server(Shelf().put("f", "1.0.0", forest_item()).want("f", "1.0.0")) as server:

        async def ask(place: int) -> Sequence[float]:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            body = b'{"instances": [%s]}' % str(samples[place].tolist()).encode()
            head = b"POST /v1/models/f/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            answers = []
            for _ in range(20):
                writer.write(head + body)
                reply = await reader.readuntil(b"\r\n\r\n")
                length = int(reply.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                answers.append(await reader.readexactly(length))
            writer.close()
            assert len({str(json.loads(answer)["probabilities"]) for answer in answers}) == 1
            return json.loads(answers[0])["probabilities"][0]  # type: ignore[no-any-return]

        async def everybody() -> Sequence[Sequence[float]]:
            return await asyncio.gather(*(ask(place) for place in range(0, 150, 5)))

        assert np.allclose(asyncio.run(everybody()), probabilities[::5], atol=1e-5)
        runs, run_rows = server.metric("ml_batch_size_count", model="f"), server.metric("ml_batch_size_sum", model="f")
    assert run_rows == 30 * 20
    assert runs < run_rows  # some of them shared a run


def test_requests_stay_apart_where_that_is_wished_or_a_row_depends_on_others() -> None:
    signature = score().inputs, score().outputs
    centred = Shelf().put("m", "1.0.0", Item(lambda: _Centred(*signature))).want("m", "1.0.0")
    for source, settings in ((Shelf().serve("m", score), {"micro_batch_rows": 1}), (centred, {})):
        with Server(source, runtime=settings) as server:
            (version,) = server.app._plane.snapshot.models["m"].versions.values()
            assert version.batcher is None
    with Server(Shelf().serve("m", score)) as server:
        (version,) = server.app._plane.snapshot.models["m"].versions.values()
        assert version.batcher is not None


class _Centred:
    """Answers each row with its distance from the first of its run: another answer in other company."""

    thread_safe = True

    def __init__(self, inputs: object, outputs: object) -> None:
        self.inputs, self.outputs = inputs, outputs

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        return [np.arange(len(inputs["input"]), dtype=np.float32)]

    def close(self) -> None:
        """Nothing is held."""
