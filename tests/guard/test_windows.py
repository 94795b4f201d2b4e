"""Use of a rule in memory: what it lets through, and that a crowd neither fills the memory nor washes a count away."""

from __future__ import annotations

import tracemalloc
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from keelway.guard.windows import CROWD, Windows


def take(windows: Windows, subject: str, cost: int, amount: int, now: float) -> bool:
    if windows.used(subject, now) + cost >= amount + 1:
        return False
    windows.add(subject, cost)
    return True


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0, 25), st.integers(1, 4)), max_size=120),
    st.integers(1, 8),
    st.floats(0, 10),
)
def test_no_more_is_let_through_than_the_amount_and_its_share_of_the_time(
    steps: list[tuple[float, int]], amount: int, length: float
) -> None:
    # W1: in any stretch of time of up to one window
    windows, now, taken = Windows(10, 100), 1000.0, []
    for pause, cost in steps:
        now += pause
        if take(windows, "a", cost, amount, now):
            taken.append((now, cost))
    for start, _ in taken:
        inside = sum(cost for moment, cost in taken if start <= moment <= start + length)
        assert inside <= amount * (1 + length / 10) + 1.001


def test_who_keeps_within_the_amount_is_never_refused() -> None:
    # W1
    windows = Windows(60, 100)
    assert all(take(windows, "a", 1, 10, second * 6.01) for second in range(1000))


def test_after_two_idle_windows_all_is_there_again() -> None:
    # W1
    windows = Windows(60, 100)
    assert take(windows, "a", 10, 10, 5.0)
    assert not take(windows, "a", 1, 10, 64.0)
    assert not take(windows, "a", 10, 10, 66.0)
    assert take(windows, "a", 10, 10, 5.0 + 120.0)
    assert take(windows, "a", 10, 10, 1e6)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3), st.floats(0, 4)), max_size=150))
def test_nobody_s_use_is_taken_for_less_than_it_is(steps: list[tuple[int, int, float]]) -> None:
    # W1: whoever comes in whatever crowd, with three places for thirty callers
    windows, exact, now = Windows(10, 3), Windows(10, 1000), 0.0
    for caller, cost, pause in steps:
        now += pause
        assert windows.used(f"c{caller}", now) >= exact.used(f"c{caller}", now) - 1e-9
        windows.add(f"c{caller}", cost)
        exact.add(f"c{caller}", cost)
        assert len(windows) <= 4 * 3


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.floats(0, 8)), max_size=150),
    st.integers(1, 8),
    st.sampled_from([1, 3, 100]),
)
def test_one_is_taken_in_one_step_as_it_is_in_two(steps: list[tuple[int, float]], amount: int, most: int) -> None:
    # W1: whoever comes in whatever crowd
    windows, plain, now = Windows(10, most), Windows(10, most), 0.0
    for caller, pause in steps:
        now += pause
        assert windows.take(f"c{caller}", now, amount + 1) == take(plain, f"c{caller}", 1, amount, now)
        assert [windows.used(f"c{one}", now) for one in range(7)] == [plain.used(f"c{one}", now) for one in range(7)]
        assert (windows.ends, len(windows)) == (plain.ends, len(plain))


def test_a_crowd_of_addresses_neither_grows_the_memory_nor_resets_a_busy_one() -> None:
    # W1: 100,000 distinct addresses
    windows = Windows(60, 1000)
    assert take(windows, "busy", 50, 50, 0.0)
    tracemalloc.start()
    refused = Counter(
        take(windows, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1, 50, number * 1e-4)
        for number in range(100_000)
    )
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(windows) <= 1000
    assert windows.crowded
    assert grown < 600_000, "bytes"
    assert not take(windows, "busy", 1, 50, 30.0), "it has used everything"
    # The others share counters, in which 24 meet on average, and of a limit of 50 that leaves something for most.
    assert refused[False] < 1000
    assert take(windows, "newcomer", 1, 50, 30.0)


def test_who_was_known_before_the_crowd_came_is_counted_alone() -> None:
    # W1
    windows = Windows(60, 10)
    assert take(windows, "regular", 1, 5, 0.0)
    windows.used("x", 60.0)
    for number in range(50 * CROWD):
        windows.used(f"x{number}", 61.0)
        windows.add(f"x{number}", 1)
    assert not take(windows, "newcomer", 1, 5, 61.0), "all the shared counters are full"
    assert all(take(windows, "regular", 1, 5, 61.0) for _ in range(5)), "what it used before has begun to fade"
    assert not take(windows, "regular", 1, 5, 61.0)


def test_a_crowd_is_forgotten_with_its_windows() -> None:
    # W1
    windows = Windows(60, 1)
    for number in range(100):
        windows.used(f"x{number}", 0.0)
        windows.add(f"x{number}", 1)
    windows.used("x", 200.0)
    assert len(windows) == 0
    assert not windows.crowded
