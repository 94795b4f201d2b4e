"""The store in Redis, against a real Valkey: what it keeps, and what it costs when that is slow, gone or strange."""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
from tests.line import run
from tests.valkey import SlowWire, Valkey, something_else

from keelway.cache.redis import RedisStore, _names
from keelway.clock import SystemClock
from keelway.errors import FailedPrecondition
from keelway.ports import Looked
from keelway.remote.redis import RedisLink

KEY, OTHER = bytes(32), bytes([1] * 32)
VALUE, LEASE = (name for name in _names(KEY))
ALONE = Looked(None, 0.0, b"")
#: Seconds that a question may take in these tests, and beyond which it has certainly not been cut short.
TIMEOUT, LONG = 0.1, 1.0


class Store(RedisStore):
    """One that notes what is said of it."""

    def __init__(self, url: str, **changed: Any) -> None:
        self.noticed: Counter[tuple[str, str]] = Counter()
        self.turns: list[bool] = []
        given = {"timeout": TIMEOUT, "failures": 3, "pause": 0.2, **changed}
        most = given.pop("max_value_bytes", 1000)
        link = RedisLink(
            url,
            SystemClock(),
            setting="cache.redis_url",
            what="the cache store",
            noted=lambda *event: self.noticed.update([event]),
            turned=self.turns.append,
            **given,
        )
        super().__init__(link, most)

    async def written(self) -> None:
        """Once everything that was to be kept has been written."""
        if self._writing:
            await asyncio.wait(self._writing)


@asynccontextmanager
async def stores(*urls: str, **changed: Any) -> AsyncIterator[list[Store]]:
    made = [Store(url, **changed) for url in urls]
    try:
        yield made
    finally:
        for store in made:
            await store.close()


async def warm(store: Store) -> Store:
    """``store`` once it has a connection and its script is there: the first question takes longest."""
    for _ in range(100):
        if (await store.look(OTHER, 0.001)).token != b"":
            store.noticed.clear()
            return store
        await asyncio.sleep(0.05)
    raise AssertionError(f"the store does not answer: {store.noticed}")


async def answers_again(store: Store) -> None:
    """Once ``store`` has found out that it does."""
    for _ in range(100):
        await store.look(OTHER, 0.001)
        if store.turns == [True, False]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the breaker stays open: {store.noticed}")


async def timed(store: Store, times: int = 1) -> float:
    """Seconds that ``times`` looks take, one after the other; each has to find nothing and wait for nobody."""
    began = time.perf_counter()
    for _ in range(times):
        assert await store.look(KEY, 1.0) == ALONE
    return time.perf_counter() - began


def test_what_one_keeps_another_finds_for_as_long_as_it_was_to_be_kept(valkey: Valkey) -> None:
    # A2
    async def scenario() -> None:
        async with stores(valkey.url, valkey.url) as (one, other):
            looked = await one.look(KEY, 5.0)
            assert looked.value is None
            assert looked.token
            one.keep(KEY, b"\x00\xff answer", 50.0, looked.token)
            await one.written()
            found = await other.look(KEY, 5.0)
            assert found.value == b"\x00\xff answer"
            assert 48 < found.ttl <= 50
            assert valkey.client.keys() == [VALUE.encode()], "the lease has been given back"
            assert (await other.look(OTHER, 0.001)).value is None

    run(scenario())


def test_a_value_goes_by_itself(valkey: Valkey) -> None:
    # A2
    async def scenario() -> None:
        async with stores(valkey.url) as (store,):
            store.keep(KEY, b"answer", 0.05, b"")
            await store.written()
            assert (await store.look(KEY, 0.001)).value == b"answer"
            await asyncio.sleep(0.06)
            assert (await store.look(KEY, 0.001)).value is None

    run(scenario())


def test_of_many_that_ask_at_once_one_gets_the_lease(valkey: Valkey) -> None:
    # A2
    async def scenario() -> None:
        async with stores(*[valkey.url] * 4, timeout=5.0) as made:
            for round_ in range(5):
                key = bytes([round_] * 32)
                looked = await asyncio.gather(*(store.look(key, 5.0) for store in made * 5))
                assert [bool(one.token) for one in looked].count(True) == 1
                assert [one.token for one in looked].count(None) == 19

    run(scenario())


def test_a_lease_ends_by_itself_and_is_given_back_only_by_its_holder(valkey: Valkey) -> None:
    # A2: one that came too late must not give back what is another's by now.
    async def scenario() -> None:
        async with stores(valkey.url, valkey.url) as (late, prompt):
            token = (await late.look(KEY, 0.05)).token
            assert (await prompt.look(KEY, 5.0)).token is None
            await asyncio.sleep(0.06)
            assert (await prompt.look(KEY, 5.0)).token
            assert token
            late.keep(KEY, None, 0.0, token)
            await late.written()
            assert (await late.look(KEY, 5.0)).token is None

    run(scenario())


def test_a_value_that_does_not_last_long_enough_is_to_be_made_anew(valkey: Valkey) -> None:
    # A2
    async def scenario() -> None:
        async with stores(valkey.url) as (store,):
            store.keep(KEY, b"answer", 10.0, b"")
            await store.written()
            assert (await store.look(KEY, 1.0, 9.0)).value == b"answer"
            renewing = await store.look(KEY, 1.0, 11.0)
            assert renewing.value is None
            assert renewing.token

    run(scenario())


def test_values_that_are_too_large_are_neither_written_nor_read(valkey: Valkey) -> None:
    # A2
    async def scenario() -> None:
        async with stores(valkey.url) as (store,):
            store.keep(KEY, bytes(1001), 10.0, b"")
            await store.written()
            assert valkey.client.get(VALUE) is None
            store.keep(KEY, bytes(1000), 10.0, b"")
            await store.written()
            assert (await store.look(KEY, 1.0)).value == bytes(1000)
            valkey.client.set(VALUE, bytes(30_000_000), px=10_000)
            assert await store.look(KEY, 1.0) == Looked(None, pytest.approx(10, abs=1), b"")

    run(scenario())


def plant_list(valkey: Valkey) -> None:
    valkey.client.rpush(VALUE, "a", "b")


def plant_for_ever(valkey: Valkey) -> None:
    valkey.client.set(VALUE, b"for ever")


def plant_nothing(valkey: Valkey) -> None:
    valkey.client.set(VALUE, b"", px=10_000)


@pytest.mark.parametrize("plant", [plant_list, plant_for_ever, plant_nothing])
def test_what_others_have_put_under_our_keys_is_nothing_and_is_overwritten(valkey: Valkey, plant: Any) -> None:
    # A2
    async def scenario() -> None:
        plant(valkey)
        async with stores(valkey.url) as (store,):
            looked = await store.look(KEY, 1.0)
            assert looked.value is None
            assert looked.token
            store.keep(KEY, b"answer", 10.0, looked.token)
            await store.written()
            assert (await store.look(KEY, 1.0)).value == b"answer"
            assert store.turns == []

    run(scenario())


def test_a_list_where_the_lease_belongs_keeps_nobody_waiting_for_ever(valkey: Valkey) -> None:
    # A2
    async def scenario() -> None:
        valkey.client.rpush(LEASE, "a")
        async with stores(valkey.url) as (store,):
            assert await store.look(KEY, 1.0) == Looked(None, 0.0, None)
            store.keep(KEY, b"answer", 10.0, b"not a lease")
            await store.written()
            assert store.noticed["keep", "error"] == 1

    run(scenario())


def test_a_stopped_redis_costs_one_timeout_for_each_failure_and_then_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A2
    async def scenario() -> None:
        with Valkey(tmp_path) as server:
            async with stores(server.url, pause=0.5) as (store,):
                await warm(store)
                server.stop_answering()
                try:
                    assert await timed(store, 3) < 3 * TIMEOUT + LONG
                    assert store.turns == [True]
                    assert await timed(store, 1000) < LONG
                    assert store.noticed["look", "timeout"] <= 4
                    store.keep(KEY, b"answer", 10.0, b"")
                    await store.written()
                finally:
                    server.answer_again()
                await answers_again(store)
                store.keep(KEY, b"answer", 10.0, b"")
                await store.written()
                assert (await store.look(KEY, 1.0)).value == b"answer"

    with caplog.at_level(logging.INFO, "keelway.remote"):
        run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "redis://" not in caplog.text


def test_a_redis_behind_a_wire_of_two_seconds_costs_milliseconds(tmp_path: Path) -> None:
    # A2
    async def scenario() -> None:
        with Valkey(tmp_path) as server, SlowWire(server.port) as wire:
            async with stores(wire.url, timeout=0.025) as (store,):
                await warm(store)
                wire.delay = 2.0
                assert await timed(store) < LONG
                assert await timed(store, 50) < LONG
                assert store.noticed["look", "skipped"] >= 40
                assert store.turns == [True]

    run(scenario())


def test_many_at_once_do_not_wait_one_after_the_other_for_a_slow_redis(tmp_path: Path) -> None:
    # A2
    async def scenario() -> None:
        with Valkey(tmp_path) as server:
            async with stores(server.url) as (store,):
                await warm(store)
                server.stop_answering()
                began = time.perf_counter()
                looked = await asyncio.gather(*(store.look(KEY, 1.0) for _ in range(200)))
                assert time.perf_counter() - began < TIMEOUT + LONG
                assert looked == [ALONE] * 200
                server.answer_again()

    run(scenario())


def test_a_killed_redis_costs_next_to_nothing_and_one_that_comes_back_is_used_again(tmp_path: Path) -> None:
    # A2
    async def scenario() -> None:
        with Valkey(tmp_path) as server:
            async with stores(server.url) as (store,):
                await warm(store)
                server.kill()
                assert await timed(store, 10) < LONG
                assert store.turns == [True]
                server.start()
                await answers_again(store)

    run(scenario())


def test_a_redis_that_was_never_there_is_none(tmp_path: Path) -> None:
    # A2
    async def scenario() -> None:
        async with stores(Valkey(tmp_path).url) as (store,):
            assert await timed(store, 5) < LONG
            assert store.noticed["look", "error"] == 3

    run(scenario())


def test_a_full_redis_is_still_read_and_is_not_written_to_for_a_while(tmp_path: Path) -> None:
    # A2
    async def scenario() -> None:
        with Valkey(tmp_path, "--maxmemory-policy", "noeviction") as server:
            async with stores(server.url, pause=0.3) as (store,):
                store.keep(KEY, b"answer", 50.0, b"")
                await store.written()
                server.client.config_set("maxmemory", "1")
                assert (await store.look(KEY, 1.0)).value == b"answer"
                looked = await store.look(OTHER, 1.0)
                assert looked == ALONE, "no lease can be had, and nobody is to be waited for"
                for _ in range(3):
                    store.keep(OTHER, b"answer", 50.0, b"")
                    await store.written()
                assert store.noticed["keep", "refused"] == 1
                assert store.turns == [], "it answers"
                server.client.config_set("maxmemory", "0")
                await asyncio.sleep(0.35)
                store.keep(OTHER, b"answer", 50.0, b"")
                await store.written()
                assert (await store.look(OTHER, 1.0)).value == b"answer"

    run(scenario())


def test_a_redis_that_asks_for_another_password_is_as_good_as_none(tmp_path: Path) -> None:
    # A2
    async def scenario() -> None:
        with Valkey(tmp_path) as server:
            server.client.config_set("requirepass", "right")
            async with stores(server.url.replace("//", "//:wrong@")) as (store,):
                assert await timed(store, 5) < LONG
                assert store.turns == [True]
            async with stores(server.url.replace("//", "//:right@")) as (store,):
                await warm(store)

    run(scenario())


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\xfe", b"$99999999999\r\n", b"*1\r\n*1\r\n:1\r\n", b""]
)
def test_something_else_at_that_address_is_as_good_as_no_redis(said: bytes) -> None:
    # A2
    async def scenario() -> None:
        async with something_else(said) as url, stores(url) as (store,):
            assert await timed(store, 5) < 3 * TIMEOUT + LONG
            assert store.turns == [True]

    run(scenario())


def test_a_reply_of_another_form_is_no_value_and_no_lease(valkey: Valkey) -> None:
    # A2
    async def scenario() -> None:
        async with stores(valkey.url) as (store,):
            for reply in ("1", "'text'", "{}", "{1, 2}", "{'a', 'b', 'c'}", "{1, 2, 0}", "{'', 1, 9}"):
                store._look = store._client.register_script(f"return {reply}")
                assert (await store.look(KEY, 1.0)).value is None

    run(scenario())


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_caller_who_leaves_while_it_asks_leaves_no_lease_behind(valkey: Valkey, steps: int) -> None:
    # A2 R5
    async def scenario() -> None:
        async with stores(valkey.url) as (store,):
            await warm(store)
            asking = asyncio.ensure_future(store.look(KEY, 60.0))
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            (outcome,) = await asyncio.gather(asking, return_exceptions=True)
            if isinstance(outcome, Looked):  # the answer was faster
                store.keep(KEY, None, 0.0, outcome.token or b"")
            else:
                assert isinstance(outcome, asyncio.CancelledError)
            await store.written()
            await asyncio.sleep(0.02)
            assert (await store.look(KEY, 1.0)).token

    run(scenario())


def test_writes_that_pile_up_are_dropped(tmp_path: Path) -> None:
    # A2
    async def scenario() -> None:
        with Valkey(tmp_path) as server:
            async with stores(server.url, timeout=0.5) as (store,):
                await warm(store)
                server.stop_answering()
                for _ in range(1000):
                    store.keep(KEY, b"answer", 10.0, b"")
                assert len(store._writing) == 256
                assert store.noticed["keep", "skipped"] == 744
                server.answer_again()

    run(scenario())


def test_closing_writes_what_is_under_way_and_waits_for_no_dead_redis(tmp_path: Path) -> None:
    # A2
    async def scenario() -> None:
        with Valkey(tmp_path) as server:
            store = await warm(Store(server.url))
            store.keep(KEY, b"answer", 10.0, b"")
            await store.close()
            assert server.client.get(VALUE) == b"answer"
            store = await warm(Store(server.url))
            server.stop_answering()
            store.keep(KEY, b"other", 10.0, b"")
            began = time.perf_counter()
            await store.close()
            assert time.perf_counter() - began < LONG
            store.keep(KEY, b"too late", 10.0, b"")
            assert store._writing == set()
            server.answer_again()

    run(scenario())


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://localhost", "redis://host:port", "redis://h/?max_connections=x"]
)
def test_an_address_that_is_none_is_refused_without_being_repeated(url: str) -> None:
    # A2: it may hold a password.
    with pytest.raises(FailedPrecondition, match=r"cache\.redis_url") as refused:
        Store(url.replace("localhost", "user:sentinel-4711@localhost"))
    assert "sentinel" not in str(refused.value)
    assert refused.value.hint


def test_without_the_library_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # A2
    real = builtins.__import__

    def without_redis(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "redis":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_redis)
    with pytest.raises(FailedPrecondition) as refused:
        Store("redis://127.0.0.1:1/0")
    assert refused.value.hint == 'pip install "keelway[redis]"'


def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    # A2
    path = f"{gettempdir()}/keelway-{os.getpid()}.sock"  # pytest's folders are longer than a socket's name may be

    async def scenario() -> None:
        with Valkey(tmp_path, "--unixsocket", path):
            async with stores(f"unix://{path}") as (store,):
                await warm(store)

    run(scenario())
