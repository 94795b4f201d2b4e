"""The cache stage by itself: who computes, who waits, and what becomes of both when something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tests.line import run

from keelway.cache.answers import AnswerCache
from keelway.cache.entries import from_bytes
from keelway.cache.memory import MemoryStore
from keelway.config import CacheSettings
from keelway.errors import DeadlineExceeded, InvalidInput, ModelFailed, Unavailable
from keelway.ports import Looked
from keelway.testing import FakeClock
from keelway.types import Array

KEY = bytes(32)


class Model:
    """Answers 1.0, 2.0, ... after as many turns of the loop as ``turns`` says, or raises what is in ``errors`` first.
    ``gate``, closed by a test, keeps every run waiting; ``most`` is how many there were at once."""

    def __init__(self, *errors: BaseException, turns: int = 3) -> None:
        self.runs = self.most = self._now = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._errors = list(errors)
        self._turns = turns

    async def __call__(self) -> Sequence[Array]:
        self.runs += 1
        answer = np.array([float(self.runs)])
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self.gate.wait()
            for _ in range(self._turns):
                await asyncio.sleep(0)
        finally:
            self._now -= 1
        if self._errors:
            raise self._errors.pop(0)
        return [answer]


class Shelf:
    """A store in memory, as the port has it; ``leases`` are those taken. Several caches share it, as processes do."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.values: dict[bytes, tuple[bytes, float]] = {}
        self.leases: dict[bytes, bytes] = {}
        self.looks = 0

    async def look(self, key: bytes, lease: float, min_ttl: float = 0.0) -> Looked:
        self.looks += 1
        await asyncio.sleep(0)
        value, until = self.values.get(key, (b"", 0.0))
        left = until - self._clock.monotonic()
        if left > min_ttl:
            return Looked(value, left, b"")
        if key in self.leases:
            return Looked(None, 0.0, None)
        self.leases[key] = b"token %d" % self.looks
        return Looked(None, 0.0, self.leases[key])

    def keep(self, key: bytes, value: bytes | None, ttl: float, token: bytes) -> None:
        if value is not None:
            self.values[key] = (value, self._clock.monotonic() + ttl)
        if token and self.leases.get(key) == token:
            del self.leases[key]

    async def close(self) -> None: ...


class Cache(AnswerCache):
    """One with a clock that stands still and no luck: nothing is made anew early, and times are whole."""

    def __init__(
        self, clock: FakeClock | None = None, store: Shelf | None = None, luck: float | None = None, **settings: Any
    ) -> None:
        self.clock = clock or FakeClock()
        self.memory = MemoryStore(10_000, 1_000, self.clock)
        self.noticed: list[tuple[str, str]] = []
        wanted = CacheSettings(enabled=True, **{"jitter": 0.0, "lease_wait": 0.05, **settings})
        self.luck = 0.999999 if luck is None else luck
        super().__init__(
            wanted, self.memory, self.clock, lambda: self.luck, (), store, lambda *event: self.noticed.append(event)
        )

    async def ask(self, compute: Callable[[], Any], key: bytes = KEY) -> tuple[float, str]:
        """As the request line does: from memory, or else fetched."""
        entry = self.recall(key)
        if entry is None:
            entry, result = await self.fetch(self.seen(key), 1, compute)
        else:
            result = "hit"
        return float(entry.result()[0][0]), result

    @property
    def at_rest(self) -> bool:
        return not self._flights


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def started(*asked: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    """Tasks that have all come to where they wait."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    await settle()
    return tasks


def test_of_fifty_equal_requests_at_once_one_computes() -> None:
    # A2
    async def scenario() -> None:
        cache, model = Cache(), Model()
        answers = await asyncio.gather(*(cache.ask(model) for _ in range(50)))
        assert model.runs == 1
        assert answers == [(1.0, "miss")] + [(1.0, "shared")] * 49
        assert await cache.ask(model) == (1.0, "hit")
        assert cache.at_rest

    run(scenario())


def test_other_keys_do_not_wait() -> None:
    # A2
    async def scenario() -> None:
        cache, slow, fast = Cache(), Model(), Model()
        slow.gate.clear()
        (waiting,) = await started(cache.ask(slow))
        assert await cache.ask(fast, bytes([1] * 32)) == (1.0, "miss")
        assert not waiting.done()
        slow.gate.set()
        await waiting

    run(scenario())


def test_a_leader_who_leaves_hands_over_to_one_follower() -> None:
    # A2 R5
    async def scenario() -> None:
        cache, model = Cache(), Model()
        model.gate.clear()
        leader, *followers = await started(*(cache.ask(model) for _ in range(5)))
        leader.cancel()
        await settle()
        model.gate.set()
        answers = await asyncio.gather(*followers)
        assert leader.cancelled()
        assert sorted(answers) == [(2.0, "miss")] + [(2.0, "shared")] * 3
        assert model.runs == 2
        assert cache.at_rest

    run(scenario())


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("staying", [0, 1])
def test_however_many_leave_one_after_the_other_nobody_waits_for_nobody(turns: int, staying: int) -> None:
    # A2 R5
    async def scenario() -> None:
        cache, model = Cache(), Model()
        model.gate.clear()
        tasks = await started(*(cache.ask(model) for _ in range(5)))
        for task in tasks[: 5 - staying]:
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
        model.gate.set()
        *left, last = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in left} == {asyncio.CancelledError}
        assert isinstance(last, tuple) == bool(staying)
        assert cache.at_rest
        assert (await cache.ask(model))[1] == ("hit" if staying else "miss")

    run(scenario())


def test_a_follower_called_to_lead_in_the_turn_in_which_it_leaves_passes_the_call_on() -> None:
    # A2: otherwise the third would wait for nobody.
    async def scenario() -> None:
        cache, model = Cache(), Model()
        model.gate.clear()
        first, second, third = await started(*(cache.ask(model) for _ in range(3)))
        first.cancel()
        await asyncio.sleep(0)  # the first is told; the second is called
        second.cancel()
        await settle()
        model.gate.set()
        assert (await third)[1] == "miss"
        assert second.cancelled()
        assert cache.at_rest

    run(scenario())


def test_a_failed_leader_fails_nobody_else() -> None:
    # A2: a passing error is the leader's own.
    async def scenario() -> None:
        cache, model = Cache(), Model(ModelFailed("out of memory"))
        model.gate.clear()
        leader, *followers = await started(*(cache.ask(model) for _ in range(5)))
        model.gate.set()
        answers = await asyncio.gather(*followers)
        with pytest.raises(ModelFailed):
            await leader
        assert {value for value, _ in answers} == {2.0}
        assert model.runs == 2
        assert cache.at_rest

    run(scenario())


def test_a_model_that_fails_again_and_again_does_not_keep_its_callers_in_a_queue() -> None:
    # A2: after the second failure everybody runs for himself, at once.
    async def scenario() -> None:
        cache, model = Cache(), Model(*[Unavailable("away")] * 10)
        model.gate.clear()
        tasks = await started(*(cache.ask(model) for _ in range(10)))
        model.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 10
        assert (model.runs, model.most) == (10, 8)
        assert cache.at_rest
        assert await cache.ask(model) == (11.0, "miss")

    run(scenario())


def test_a_deadline_is_the_leaders_own_and_no_failure_of_the_model() -> None:
    # A2 R5
    async def scenario() -> None:
        cache, model = Cache(), Model(*[DeadlineExceeded("late")] * 3)
        model.gate.clear()
        *late, last = await started(*(cache.ask(model) for _ in range(4)))
        model.gate.set()
        assert await last == (4.0, "miss")
        assert model.runs == 4
        assert {type(error) for error in await asyncio.gather(*late, return_exceptions=True)} == {DeadlineExceeded}

    run(scenario())


def test_an_error_that_every_such_request_meets_is_shared_and_kept_for_a_while() -> None:
    # A2
    async def scenario() -> None:
        cache, model = Cache(negative_ttl=10.0), Model(*[InvalidInput("unknown user", field="user")] * 2)
        model.gate.clear()
        tasks = await started(*(cache.ask(model) for _ in range(5)))
        model.gate.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(InvalidInput, match="unknown user") as caught:
            await cache.ask(model)
        assert caught.value.field == "user"
        assert [type(error) for error in errors] == [InvalidInput] * 5
        assert len({id(error) for error in [*errors, caught.value]}) == 6, "no two callers raise one object"
        assert model.runs == 1
        cache.clock.advance(10.0)
        with pytest.raises(InvalidInput):
            await cache.ask(model)
        assert model.runs == 2
        cache.clock.advance(10.0)
        assert await cache.ask(model) == (3.0, "miss")

    run(scenario())


def test_no_error_is_kept_where_none_is_to_be() -> None:
    # A2
    async def scenario() -> None:
        cache, model = Cache(negative_ttl=0.0), Model(InvalidInput("no"))
        with pytest.raises(InvalidInput):
            await cache.ask(model)
        assert await cache.ask(model) == (2.0, "miss")

    run(scenario())


def test_what_is_too_large_to_keep_is_shared_with_those_who_wait() -> None:
    # A2
    async def scenario() -> None:
        cache, runs = Cache(), list[int]()

        async def large() -> Sequence[Array]:
            runs.append(1)
            await asyncio.sleep(0.001)
            return [np.ones(100_000)]

        answers = await asyncio.gather(*(cache.ask(large) for _ in range(5)))
        assert answers == [(1.0, "miss")] + [(1.0, "shared")] * 4
        assert len(runs) == 1
        assert (await cache.ask(large))[1] == "miss"

    run(scenario())


def test_what_cannot_be_kept_is_answered_to_each() -> None:
    # A2: the request line says what is wrong with it.
    async def scenario() -> None:
        cache, runs = Cache(), list[int]()

        async def odd() -> Any:
            runs.append(1)
            await asyncio.sleep(0.001)
            return [[1.0]]

        answers = await asyncio.gather(*(cache.ask(odd) for _ in range(3)))
        assert answers == [(1.0, "miss")] * 3
        assert len(runs) == 3
        assert len(cache.memory) == 0

    run(scenario())


def test_an_answer_goes_after_its_time_whose_share_is_random() -> None:
    # A2
    async def scenario() -> None:
        cache, model = Cache(ttl=100.0, jitter=0.5, luck=0.5), Model()
        await cache.ask(model)
        cache.clock.advance(74.9)
        assert (await cache.ask(model))[1] == "hit"
        cache.clock.advance(0.1)
        assert (await cache.ask(model))[1] == "miss"

    run(scenario())


class Slow(Model):
    """A model that takes a second of the clock that stands still."""

    def __init__(self, clock: FakeClock, *errors: BaseException) -> None:
        super().__init__(*errors)
        self._clock = clock

    async def __call__(self) -> Sequence[Array]:
        self._clock.advance(1.0)
        return await super().__call__()


def test_one_request_makes_an_answer_anew_before_it_expires_and_the_others_get_the_old_one() -> None:
    # A2
    async def scenario() -> None:
        cache = Cache(ttl=100.0)
        model = Slow(cache.clock)
        await cache.ask(model)
        cache.clock.advance(98.0)
        assert await cache.ask(model) == (1.0, "hit")
        cache.luck = 0.01
        model.gate.clear()
        (renewing,) = await started(cache.ask(model))
        assert [await cache.ask(model) for _ in range(3)] == [(1.0, "hit")] * 3
        model.gate.set()
        assert await renewing == (2.0, "miss")
        cache.luck = 0.999999
        cache.clock.advance(90.0)
        assert await cache.ask(model) == (2.0, "hit")
        assert model.runs == 2

    run(scenario())


def test_if_making_it_anew_fails_the_old_answer_is_given() -> None:
    # A2: without early renewal it would have been a hit.
    async def scenario() -> None:
        cache = Cache(ttl=100.0)
        model = Slow(cache.clock)
        await cache.ask(model)
        cache.clock.advance(97.0)
        cache.luck = 0.0
        assert await cache.ask(Slow(cache.clock, ModelFailed("no"))) == (1.0, "hit")
        assert cache.at_rest

    run(scenario())


def test_a_cheap_answer_is_not_made_anew_early_and_none_is_where_that_is_off() -> None:
    # A2
    async def scenario() -> None:
        for cost, settings in ((0.0, {}), (1.0, {"early_refresh": 0.0})):
            cache = Cache(ttl=100.0, luck=0.0, **settings)
            model: Any = Slow(cache.clock) if cost else Model()
            await cache.ask(model)
            cache.clock.advance(98.9)
            assert await cache.ask(model) == (1.0, "hit")

    run(scenario())


# With a store that processes share


def test_what_one_process_has_answered_another_finds() -> None:
    # A2
    async def scenario() -> None:
        clock = FakeClock()
        shelf, model = Shelf(clock), Model()
        one, other = Cache(clock, shelf, ttl=100.0), Cache(clock, shelf, ttl=100.0)
        assert await one.ask(model) == (1.0, "miss")
        clock.advance(60.0)
        assert await other.ask(model) == (1.0, "stored")
        looks = shelf.looks
        assert await other.ask(model) == (1.0, "hit")
        assert shelf.looks == looks
        clock.advance(40.0)
        assert other.recall(KEY) is None, "it may not be kept longer here than there"
        assert shelf.leases == {}

    run(scenario())


def test_while_one_process_computes_the_others_wait_and_take_its_answer() -> None:
    # A2
    async def scenario() -> None:
        clock = FakeClock()
        shelf, model = Shelf(clock), Model()
        model.gate.clear()
        one, other = Cache(clock, shelf), Cache(clock, shelf)
        tasks = await started(*(cache.ask(model) for cache in (one, one, other, other)))
        assert model.runs == 1
        model.gate.set()
        assert await asyncio.gather(*tasks) == [(1.0, "miss"), (1.0, "shared"), (1.0, "stored"), (1.0, "shared")]
        assert model.runs == 1

    run(scenario())


def test_if_the_other_process_takes_too_long_a_process_computes_itself() -> None:
    # A2
    async def scenario() -> None:
        clock = FakeClock()
        shelf, model = Shelf(clock), Model()
        shelf.leases[KEY] = b"of one that was killed"
        cache = Cache(clock, shelf, lease_wait=0.5)
        (waiting,) = await started(cache.ask(model))
        assert model.runs == 0
        clock.advance(0.5)
        assert await waiting == (1.0, "miss")
        assert shelf.leases == {KEY: b"of one that was killed"}, "a lease is given back by whoever holds it only"

    run(scenario())


@pytest.mark.parametrize("how", ["fails", "leaves", "refuses"])
def test_a_lease_is_given_back_whatever_becomes_of_the_run(how: str) -> None:
    # A2
    async def scenario() -> None:
        clock = FakeClock()
        error = InvalidInput("no") if how == "refuses" else ModelFailed("no")
        shelf, model = Shelf(clock), Model(error)
        model.gate.clear()
        cache = Cache(clock, shelf)
        (task,) = await started(cache.ask(model))
        assert shelf.leases
        if how == "leaves":
            task.cancel()
        model.gate.set()
        await asyncio.gather(task, return_exceptions=True)
        assert shelf.leases == {}
        kept = [from_bytes(value, KEY, 1) for value, _ in shelf.values.values()]
        assert [entry.refusal is not None for entry in kept if entry] == [True] * (how == "refuses")

    run(scenario())


def test_what_is_none_of_ours_in_the_store_is_computed_and_overwritten() -> None:
    # A2
    async def scenario() -> None:
        clock = FakeClock()
        shelf, model = Shelf(clock), Model()
        shelf.values[KEY] = (b"\x80\x04garbage", 1000.0)
        cache = Cache(clock, shelf)
        assert await cache.ask(model) == (1.0, "miss")
        assert cache.noticed == [("look", "garbage")]
        assert await Cache(clock, shelf).ask(model) == (1.0, "stored")

    run(scenario())


def test_an_answer_is_made_anew_early_by_one_process_for_all() -> None:
    # A2
    async def scenario() -> None:
        clock = FakeClock()
        shelf = Shelf(clock)
        model = Slow(clock)
        one, other = Cache(clock, shelf, ttl=100.0), Cache(clock, shelf, ttl=100.0)
        await one.ask(model)
        await other.ask(model)
        clock.advance(98.0)
        one.luck = other.luck = 0.01
        assert await one.ask(model) == (2.0, "miss")
        assert await other.ask(model) == (2.0, "stored")
        assert model.runs == 2

    run(scenario())


def test_a_model_that_is_left_out_has_no_keys_whatever_its_name_is_written_like() -> None:
    # A1
    from tests.line import SIGNATURE, Line

    version = Line().version
    inputs = {SIGNATURE.inputs[0].name: np.zeros((1, 2), np.float32)}
    assert Cache().key(version, inputs, ("score",), None) is not None
    assert Cache(exclude=("churn",)).key(version, inputs, ("score",), None) is None
    assert Cache(exclude=("other",)).key(version, inputs, ("score",), None) is not None
