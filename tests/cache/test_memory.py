"""What memory keeps, for how long, and what goes first."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections import Counter, OrderedDict
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.cache.entries import Entry, answered
from keelway.cache.memory import MemoryStore, jittered, refresh_is_due
from keelway.testing import FakeClock


def entry(size: int) -> Entry:
    return Entry((), None, 0.0, size)


class Store(MemoryStore):
    """One with a clock that stands still, and what it says of those that went."""

    def __init__(self, max_bytes: int = 100, max_value_bytes: int = 100) -> None:
        self.clock = FakeClock()
        self.gone: Counter[str] = Counter()
        super().__init__(max_bytes, max_value_bytes, self.clock, lambda reason: self.gone.update([reason]))

    def has(self, key: bytes) -> bool:
        return self.get(key) is not None


def test_the_least_recently_used_goes_first() -> None:
    # A2
    store = Store()
    for key in (b"a", b"b", b"c"):
        store.put(key, entry(30), 10)
    assert store.has(b"a")
    store.put(b"d", entry(30), 10)
    assert [key for key in (b"a", b"b", b"c", b"d") if store.has(key)] == [b"a", b"c", b"d"]
    assert store.gone == {"size": 1}


def test_an_entry_is_there_until_its_time_is_over_and_not_longer() -> None:
    # A2
    store = Store()
    store.put(b"a", entry(30), 10)
    store.clock.advance(9.999)
    assert store.has(b"a")
    store.clock.advance(0.001)
    assert not store.has(b"a")
    assert (len(store), store.size, store.gone) == (0, 0, {"expired": 1})


def test_using_an_entry_does_not_lengthen_its_time() -> None:
    # A2
    store = Store()
    store.put(b"a", entry(1), 10)
    for _ in range(10):
        assert store.has(b"a")
        store.clock.advance(1)
    assert not store.has(b"a")


def test_an_entry_in_place_of_another_counts_once_and_has_its_own_time() -> None:
    # A2
    store = Store()
    store.put(b"a", entry(80), 10)
    store.clock.advance(9)
    assert store.put(b"a", entry(90), 10)
    store.clock.advance(9)
    assert store.has(b"a")
    assert (len(store), store.size, store.gone) == (1, 90, {})


@pytest.mark.parametrize("sizes", [(100, 51), (50, 100)])
def test_what_is_too_large_is_not_kept_and_drives_nothing_out(sizes: tuple[int, int]) -> None:
    # A2: and what it was to replace is not given any more.
    store = Store(100, 50)
    store.put(b"a", entry(40), 10)
    store.put(b"b", entry(40), 10)
    assert not store.put(b"c", entry(51), 10)
    assert not store.put(b"b", entry(51), 10)
    assert [store.has(key) for key in (b"a", b"b", b"c")] == [True, False, False]
    assert store.size == 40


def test_nothing_is_kept_for_no_time() -> None:
    # A2
    store = Store()
    assert not store.put(b"a", entry(1), 0)
    assert len(store) == 0


KEYS = st.sampled_from([bytes([letter]) for letter in b"abcdef"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(1, 60), st.integers(1, 20)),
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("advance"), st.integers(0, 10)),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_does_as_a_dictionary_that_is_searched_from_end_to_end(steps: list[tuple[Any, ...]]) -> None:
    # A2
    store, now = Store(100, 50), 0
    plain: OrderedDict[bytes, tuple[Entry, int]] = OrderedDict()
    for step in steps:
        match step:
            case ("put", key, size, ttl):
                one = entry(size)
                plain.pop(key, None)
                assert store.put(key, one, ttl) == (size <= 50)
                if size <= 50:
                    plain[key] = (one, now + ttl)
                while sum(kept.size for kept, _ in plain.values()) > 100:
                    plain.popitem(last=False)
            case ("get", key):
                found = plain.get(key)
                if found is not None and found[1] <= now:
                    del plain[key]
                    found = None
                if found is not None:
                    plain.move_to_end(key)
                kept = store.get(key)
                assert (kept and kept.entry) is (found and found[0])
            case ("advance", seconds):
                now += seconds
                store.clock.advance(seconds)
        assert store.size == sum(kept.size for kept, _ in plain.values()) <= 100
        assert len(store) == len(plain)


@pytest.mark.parametrize("rows", [1, 200])
@pytest.mark.parametrize("texts", [False, True])
def test_what_is_kept_really_takes_no_more_memory_than_it_may(rows: int, texts: bool) -> None:
    # A2
    numbers = count()

    def outputs() -> list[Any]:
        if texts:
            words = np.empty(rows, object)
            words[:] = [f"a label of some length {next(numbers)}" for _ in range(rows)]
            return [words]
        return [np.zeros(rows, np.int64), np.full((rows, 3), next(numbers), np.float32)]

    most = 4 * 2**20
    store = MemoryStore(most, most, FakeClock())
    tracemalloc.start()
    try:
        while store.size < most - 50_000:
            made = answered(outputs(), 1 if texts else 2, 0.0)
            assert made is not None
            store.put(next(numbers).to_bytes(32, "little"), made, 1000)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken <= most
    assert taken >= most / 3, "the sizes are counted far too large"


def test_times_are_shortened_at_random_and_by_no_more_than_the_share() -> None:
    # A2
    assert jittered(100, 0.0, 0.7) == 100
    assert jittered(100, 0.1, 0.0) == 100
    chance = random.Random(1)
    times = [jittered(100, 0.1, chance.random()) for _ in range(1000)]
    assert 90 <= min(times) < 91
    assert 99 < max(times) <= 100


def test_the_nearer_its_end_the_surer_an_answer_is_made_anew() -> None:
    # A2: XFetch's own law, P(renewed with r seconds left) = exp(-r / (cost * beta)).
    chance = random.Random(1)
    for remaining in (0.5, 1.0, 2.0, 4.0):
        renewed = sum(refresh_is_due(remaining, 1.0, 1.0, chance.random()) for _ in range(20_000)) / 20_000
        assert renewed == pytest.approx(math.exp(-remaining), abs=0.015)
    assert not any(refresh_is_due(1.0, 0.0001, 1.0, chance.random()) for _ in range(10_000))
    assert refresh_is_due(1.0, 1.0, 1.0, 0.0)
    assert not refresh_is_due(0.001, 1.0, 0.0, 0.0)
