"""Rate limits in Redis, against a real Valkey: counted once for several servers, and what it costs when the store is
slow, stopped, killed, full or something else."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.guard.limited import ACME, HERE, THERE, Limited
from tests.line import run
from tests.valkey import SlowWire, Valkey, something_else

from keelway.clock import SystemClock
from keelway.errors import FailedPrecondition, RateLimited, Unavailable
from keelway.guard.ratelimit_redis import RedisLimitStore
from keelway.remote.redis import RedisLink

#: Seconds that a question may take in these tests, and beyond which it has certainly not been cut short.
TIMEOUT, LONG = 0.1, 1.0
RULE = "10 rows/minute per principal"


class Shared(Limited):
    """One whose store notes what is said of it."""

    def __init__(self, url: str, *rules: str, on_failure: str = "closed", **changed: Any) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self.turns: list[bool] = []
        clock = SystemClock()
        given = {"timeout": TIMEOUT, "failures": 3, "pause": 0.3, **changed}
        noted, turned = lambda *event: self.asked.update([event]), self.turns.append
        link = RedisLink(url, clock, setting="rate_limits.store", what="the store", noted=noted, turned=turned, **given)
        store = RedisLimitStore(link)
        super().__init__(*(rules or [RULE]), clock=clock, store=store, on_failure=on_failure)


@asynccontextmanager
async def servers(*urls: str, rules: tuple[str, ...] = (RULE,), **changed: Any) -> AsyncIterator[list[Shared]]:
    made = [Shared(url, *rules, **changed) for url in urls]
    try:
        yield made
    finally:
        for one in made:
            await one.limiter.close()


async def warm(one: Shared) -> Shared:
    """``one`` once it has a connection and the scripts are there: the first question takes longest."""
    for number in range(100):
        if await one.ask(type(ACME)(f"warm-{number}")):
            one.asked.clear()
            one.turns.clear()
            return one
        await asyncio.sleep(0.05)
    raise AssertionError(f"the store does not answer: {one.asked}")


async def timed(one: Shared, times: int = 1) -> tuple[float, int]:
    """Seconds that so many requests have taken, and how many were let through."""
    began = time.perf_counter()
    let = await one.let_through(times)
    return time.perf_counter() - began, let


# Shared


def test_two_servers_let_through_as_much_as_one(valkey: Valkey) -> None:
    # W1: atomic, shared by workers and replicas
    async def scenario() -> None:
        async with servers(valkey.url, valkey.url, rules=("100 rows/minute per principal",), timeout=5.0) as made:
            let = await asyncio.gather(*(made[turn % 2].ask(rows=3) for turn in range(80)))
            assert sum(let) == 33

    run(scenario())


def test_a_request_takes_one_round_trip_and_one_that_is_known_to_be_used_up_none(valkey: Valkey) -> None:
    # W1
    async def scenario() -> None:
        async with servers(valkey.url) as (one,):
            await warm(one)
            assert await one.let_through(10) == 10
            assert one.asked == {("take", "ok"): 10}
            assert not await one.ask()
            assert one.asked == {("take", "ok"): 11, ("look", "ok"): 1}
            commands = valkey.client.info("commandstats")["cmdstat_evalsha"]["calls"]
            assert await one.let_through(1000) == 0
            assert one.asked == {("take", "ok"): 11, ("look", "ok"): 1}
            assert valkey.client.info("commandstats")["cmdstat_evalsha"]["calls"] == commands
            assert one.limiter.enter(ACME, HERE) is not None, "nor is it parsed"

    run(scenario())


def test_what_one_rule_refuses_is_given_back_to_the_others(valkey: Valkey) -> None:
    # W1: a caller at its limit must not use up what is left for all.
    async def scenario() -> None:
        rules = ("5 rows/minute per principal", "1000 rows/minute per model")
        async with servers(valkey.url, rules=rules) as (one,):
            await warm(one)
            before = used_of(valkey, "model")
            assert not await one.ask(rows=6)
            assert await one.ask(rows=4)
            assert not await one.ask(rows=2)
            assert used_of(valkey, "model") == before + 4
            assert one.asked["give_back", "ok"] == 2

    run(scenario())


def used_of(valkey: Valkey, party: str) -> int:
    keys = [key for key in valkey.client.keys("*") if party.encode() in key and not key.endswith(b"-1")]
    return sum(int(valkey.client.get(key)) for key in keys)


def test_nothing_is_kept_for_longer_than_two_windows(valkey: Valkey) -> None:
    # W1
    async def scenario() -> None:
        async with servers(valkey.url) as (one,):
            await one.ask()
            keys = valkey.client.keys("*")
            assert keys
            assert all(key.startswith(b"keelway:limit:1:") for key in keys)
            assert all(0 < valkey.client.ttl(key) <= 120 for key in keys)

    run(scenario())


def test_a_caller_who_leaves_while_the_store_is_asked_breaks_nothing(valkey: Valkey) -> None:
    # W1 R5
    async def scenario() -> None:
        async with servers(valkey.url, rules=("1000 rows/minute per principal",), timeout=5.0) as (one,):
            await warm(one)
            for steps in range(6):
                asking = asyncio.ensure_future(one.ask())
                for _ in range(steps):
                    await asyncio.sleep(0)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            assert await one.let_through(20) == 20
            assert one.turns == []

    run(scenario())


# Away


@pytest.mark.parametrize(("on_failure", "let"), [("open", 1000), ("local", 10), ("closed", 0)])
def test_a_stopped_store_costs_one_timeout_for_each_failure_and_then_nothing(
    tmp_path: Path, on_failure: str, let: int
) -> None:
    # W1: what happens then is a setting.
    async def scenario() -> None:
        with Valkey(tmp_path) as server:
            async with servers(server.url, on_failure=on_failure, pause=0.5) as (one,):
                await warm(one)
                server.stop_answering()
                try:
                    seconds, passed = await timed(one, 3)
                    assert seconds < 3 * TIMEOUT + LONG
                    assert one.turns == [True]
                    seconds, more = await timed(one, 997)
                    assert seconds < LONG
                    assert passed + more == let
                    assert one.asked["take", "timeout"] <= 5
                    if on_failure == "closed":
                        assert isinstance(one.error, Unavailable)
                        assert one.error.retry_after
                    if on_failure == "local":
                        assert isinstance(one.error, RateLimited)
                finally:
                    server.answer_again()
                for _ in range(100):
                    if await one.ask(peer=THERE, principal=type(ACME)("late")) and one.turns[-1] is False:
                        break
                    await asyncio.sleep(0.05)
                assert one.turns == [True, False]

    run(scenario())


def test_a_store_behind_a_wire_of_two_seconds_costs_milliseconds(tmp_path: Path) -> None:
    # W1
    async def scenario() -> None:
        with Valkey(tmp_path) as server, SlowWire(server.port) as wire:
            async with servers(wire.url, on_failure="open", timeout=0.025) as (one,):
                await warm(one)
                wire.delay = 2.0
                seconds, let = await timed(one, 200)
                assert seconds < LONG
                assert let == 200

    run(scenario())


def test_the_time_that_a_caller_has_left_is_not_exceeded(tmp_path: Path) -> None:
    # W1 R5
    async def scenario() -> None:
        with Valkey(tmp_path) as server:
            async with servers(server.url, on_failure="open", timeout=30.0) as (one,):
                await warm(one)
                server.stop_answering()
                began = time.perf_counter()
                assert await one.ask(seconds=0.05)
                assert time.perf_counter() - began < LONG
                server.answer_again()

    run(scenario())


def test_a_killed_store_is_gone_and_comes_back(tmp_path: Path) -> None:
    # W1
    async def scenario() -> None:
        with Valkey(tmp_path) as server:
            async with servers(server.url, on_failure="local") as (one,):
                await warm(one)
                assert await one.let_through(10) == 10
                server.kill()
                seconds, let = await timed(one, 500)
                assert seconds < LONG
                assert let <= 10, "each server counts for itself"
                server.start()
                for number in range(100):
                    await one.ask(type(ACME)(f"back-{number}"))
                    if one.turns[-1:] == [False]:
                        break
                    await asyncio.sleep(0.05)
                assert one.turns == [True, False]

    run(scenario())


def test_a_full_store_is_as_good_as_none_for_a_while(tmp_path: Path) -> None:
    # W1
    async def scenario() -> None:
        with Valkey(tmp_path, "--maxmemory-policy", "noeviction") as server:
            async with servers(server.url, on_failure="local") as (one,):
                await warm(one)
                server.client.config_set("maxmemory", "1")
                assert await one.let_through(50) == 10
                assert one.asked["take", "refused"] == 1
                server.client.config_set("maxmemory", "0")
                await asyncio.sleep(0.35)
                assert await one.ask(type(ACME)("other"))
                assert one.asked["take", "ok"] == 1

    run(scenario())


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\xfe", b"*1\r\n:1\r\n", b":7\r\n", b""]
)
def test_something_else_at_that_address_is_as_good_as_no_store(said: bytes) -> None:
    # W1
    async def scenario() -> None:
        async with something_else(said) as url, servers(url, on_failure="open") as (one,):
            seconds, let = await timed(one, 20)
            assert seconds < 3 * TIMEOUT + LONG
            assert let == 20

    run(scenario())


def test_what_others_have_written_under_our_keys_raises_nothing(valkey: Valkey) -> None:
    # W1
    async def scenario() -> None:
        async with servers(valkey.url, on_failure="open") as (one,):
            await one.ask()
            for key in valkey.client.keys("*"):
                valkey.client.delete(key)
                valkey.client.lpush(key, "not a number")
            assert await one.ask()
            assert one.asked["take", "error"] == 1

    run(scenario())


def test_an_address_that_is_none_is_refused_without_being_repeated() -> None:
    # W1: it may hold a password.
    for url in ("user:sentinel-4711@localhost:6379", "redis://sentinel-4711:port"):
        with pytest.raises(FailedPrecondition, match=r"rate_limits\.store") as refused:
            Shared(url)
        assert "sentinel" not in str(refused.value)


@pytest.mark.parametrize("library", ["redis", "limits"])
def test_without_the_libraries_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    # W1
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FailedPrecondition) as refused:
        Shared("redis://127.0.0.1:1/0")
    assert refused.value.hint == 'pip install "keelway[redis]"'
