"""Histograms that count later show what the library's own would. # M1 M2"""

from __future__ import annotations

import threading

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from keelway.observe.histograms import Histogram

BUCKETS = (0.001, 0.01, 0.5, 1.0, 32)
#: Those of a metric, on its bounds and beside them, whole numbers among them so that sums are exact in any order.
VALUES = st.sampled_from([*BUCKETS, 0, 2**-11, 2.0, 33.0, 1e9])


def page(values: list[tuple[str, float]], kind: type, *, look_every: int = 10**9) -> bytes:
    registry = CollectorRegistry(auto_describe=True)
    histogram = kind("ml_x_seconds", "What x is.", ("model",), buckets=BUCKETS, registry=registry)
    for number, (model, value) in enumerate(values):
        histogram.labels(model).observe(value)
        if number % look_every == 0:
            generate_latest(registry)
    return generate_latest(registry)


@given(st.lists(st.tuples(st.sampled_from(["a", 'b"\\\n']), VALUES), max_size=50), st.integers(1, 60))
def test_the_page_is_that_of_the_library_however_often_it_is_read(
    values: list[tuple[str, float]], look_every: int
) -> None:
    expected = page(values, prometheus_client.Histogram).splitlines()
    found = page(values, Histogram, look_every=look_every).splitlines()
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if one != other:  # a sum in another order of adding up
            assert b"_sum" in one
            assert float(one.split()[-1]) == pytest.approx(float(other.split()[-1]))


def test_many_more_values_than_are_kept_are_counted_and_none_is_kept() -> None:
    child = Histogram("ml_x", "x", (), BUCKETS, CollectorRegistry()).labels()
    for number in range(10_000):
        child.observe(float(number % 2))
    assert len(child._values) < 512
    assert child.read() == ([0 + 5000] * 3 + [10_000] * 3, 5000.0)


def test_no_value_is_lost_or_counted_twice_when_threads_observe_and_read() -> None:
    child = Histogram("ml_x", "x", (), BUCKETS, CollectorRegistry()).labels()
    seen = [0]

    def observe() -> None:
        for _ in range(20_000):
            child.observe(2.0)

    def read() -> None:
        while any(thread.is_alive() for thread in observers):
            count = child.read()[0][-1]
            assert count >= seen[0]
            seen[0] = count

    observers = [threading.Thread(target=observe) for _ in range(4)]
    reader = threading.Thread(target=read)
    for thread in (*observers, reader):
        thread.start()
    for thread in (*observers, reader):
        thread.join()
    assert child.read() == ([0, 0, 0, 0, 80_000, 80_000], 160_000.0)


def test_labels_are_as_many_as_the_metric_has() -> None:
    with pytest.raises(ValueError, match="ml_x has the labels model"):
        Histogram("ml_x", "x", ("model",), BUCKETS, CollectorRegistry()).labels("a", "b")


def test_a_name_that_is_taken_is_refused_by_the_registry() -> None:
    registry = CollectorRegistry()
    Histogram("ml_x", "x", (), BUCKETS, registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("ml_x", "x", (), BUCKETS, registry)
