"""What the warm-up measures of batches, and what it chooses. # T1"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from tests.serving import SCORE_SIGNATURE, Item, Shelf

from keelway.batching.curve import Choice, Curve, best_size, curve_of, in_words, sizes, worth_doubling
from keelway.clock import SystemClock
from keelway.config import load_settings
from keelway.hosting.loading import Loaded, load_version
from keelway.hosting.measuring import Measurable, choose_in_slots, choose_in_turn, measure, why_rows_depend
from keelway.observe.metrics import ServingMetrics
from keelway.testing import FakeClock, FakeRuntime
from keelway.types import Array

ROW = {"x": np.array([[1.0, 2.0]], np.float32), "k": np.array([[3]], np.int64)}


class Timed:
    """A model that takes ``seconds(rows)`` by a clock of its own, and counts its runs."""

    def __init__(self, seconds: Callable[[int], float], function: Callable[[Mapping[str, Array]], Array]) -> None:
        self.clock = FakeClock()
        self.sizes: list[int] = []
        self._seconds = seconds
        self._function = function

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        self.sizes.append(len(inputs["x"]))
        self.clock.advance(self._seconds(len(inputs["x"])))
        return [self._function(inputs) for _ in outputs]

    @property
    def measurable(self) -> Measurable:
        return Measurable(self.run, ROW, ("y",), self._seconds(1))


def linear(rows: int) -> float:
    return 0.002 + 0.0002 * rows


def sums(inputs: Mapping[str, Array]) -> Array:
    return np.asarray(inputs["x"].sum(axis=1) + inputs["k"][:, 0])


def test_a_model_that_gains_is_batched_and_its_curve_is_kept() -> None:
    model = Timed(linear, sums)
    choice = choose_in_slots(model.measurable, 32, 1.0, 2, model.clock)
    assert (choice.policy, choice.max_batch_size, choice.slots) == ("slots", 32, 2)
    assert choice.curve is not None
    assert [rows for rows, _ in choice.curve.points] == [1, 2, 4, 8, 16, 32]
    assert choice.curve.seconds(32) == pytest.approx(0.0084)
    assert choice.why == "32 rows take 8.4 ms, one takes 2.2 ms: 8.38 x the rows a second"


def test_a_model_that_gains_nothing_is_not() -> None:
    model = Timed(lambda rows: 0.002 * rows, sums)
    choice = choose_in_slots(model.measurable, 64, 1.0, 2, model.clock)
    assert (choice.policy, choice.max_batch_size) == ("none", 1)
    assert "gains too little" in choice.why
    assert max(model.sizes) == 2  # nothing larger is tried


def test_a_batch_is_no_larger_than_what_brings_throughput() -> None:
    model = Timed(lambda rows: 0.002 + 0.001 * max(0, rows - 8), sums)
    assert choose_in_slots(model.measurable, 64, 1.0, 1, model.clock).max_batch_size == 8


def test_measuring_ends_when_its_time_is_over() -> None:
    model = Timed(lambda rows: 0.1 + 0.001 * rows, sums)
    measure(model.measurable, 64, 1.0, model.clock)
    assert model.clock.monotonic() < 1.3
    slow = Timed(lambda rows: 2.0, sums)
    choice = choose_in_slots(slow.measurable, 64, 1.0, 1, slow.clock)
    assert slow.sizes == []
    assert choice.policy == "none"


def test_a_turn_of_the_loop_is_not_held_up_for_long() -> None:
    model = Timed(lambda rows: 0.0004 + 0.0001 * rows, sums)
    choice = choose_in_turn(model.measurable, 64, 1.0, model.clock)
    assert choice.policy == "turn"
    assert choice.max_batch_size in (15, 16)  # 2 ms, as far as numbers with a point go
    assert choose_in_turn(model.measurable, 1, 1.0, model.clock).why == "runtime.micro_batch_rows is 1"


def centred(inputs: Mapping[str, Array]) -> Array:
    return np.asarray(inputs["x"].sum(axis=1) - inputs["x"].sum(axis=1).mean())


def ranked(inputs: Mapping[str, Array]) -> Array:
    return np.arange(len(inputs["x"]))


def refuses(inputs: Mapping[str, Array]) -> Array:
    if len(inputs["x"]) > 1:
        raise ValueError("one at a time")
    return sums(inputs)


def loses(inputs: Mapping[str, Array]) -> Array:
    return sums(inputs)[:1]


@pytest.mark.parametrize("function", [centred, ranked, refuses, loses])
def test_rows_that_depend_on_their_company_are_never_joined(function: Callable[[Mapping[str, Array]], Array]) -> None:
    """T3: a model that looks at all rows together shows nothing if they are all the same."""
    model = Timed(linear, function)
    choice = choose_in_slots(model.measurable, 32, 1.0, 1, model.clock)
    assert choice.policy == "none"
    assert choice.why


def test_texts_and_whole_numbers_are_left_as_they_are() -> None:
    seen: list[Any] = []

    def run(inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        seen.append(inputs)
        return [inputs["t"]]

    texts = {"t": np.array([["a"]], object), "k": np.array([[3]])}
    assert why_rows_depend(Measurable(run, texts, ("y",), 0.001), 8) == ""
    assert {text for inputs in seen for text in inputs["t"].ravel()} == {"a"}
    assert {int(number) for inputs in seen for number in inputs["k"].ravel()} == {3}


def test_a_curve_never_says_that_more_rows_take_less_time() -> None:
    curve = curve_of([(1, 0.002), (2, 0.001), (4, 0.004)])
    assert curve.seconds(2) == 0.002
    assert curve.seconds(3) == pytest.approx(0.003)
    assert curve.seconds(8) == pytest.approx(0.008)
    assert curve.rows_within(0.0031, 64) == 3
    assert curve.rows_within(0.0001, 64) == 0
    assert curve.rows_within(1.0, 64) == 64
    assert Curve(((1, 0.002),)).seconds(10) == pytest.approx(0.02)


def test_sizes_and_gains() -> None:
    assert list(sizes(1)) == [1]
    assert list(sizes(12)) == [1, 2, 4, 8, 12]
    assert not worth_doubling(curve_of([(1, 0.001), (2, 0.002)]))
    assert best_size(curve_of([(1, 1e-5), (64, 1e-4)]), 20e-6) == 1  # the threads would cost more
    said = in_words({"policy": "none", "max_batch_size": 1, "why": "it gains too little", "slots": 0})
    assert said == "every request is a run of its own (it gains too little)"
    assert Choice("none", 1, "").curve is None


def load(seconds: Callable[[int], float], **batching: Any) -> Loaded:
    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        time.sleep(seconds(len(inputs["input"])))
        return {"score": inputs["input"].sum(axis=1)}

    item = Item(lambda: FakeRuntime(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, run))
    shelf = Shelf().put("m", "1.0.0", item).want("m", "1.0.0")
    settings = load_settings(None, {}, {"batching": batching})
    return load_version(shelf, item.release("m", "1.0.0"), settings, SystemClock(), ServingMetrics())


def test_a_loaded_version_knows_its_curve_and_its_choice() -> None:
    loaded = load(lambda rows: 0.002, max_batch_size=16)
    batching = loaded.served.metadata["batching"]
    assert (batching["policy"], batching["max_batch_size"], batching["slots"]) == ("slots", 16, 1)
    assert [rows for rows, _ in batching["curve"]["points"]] == [1, 2, 4, 8, 16]
    loaded.close()
    alone = load(lambda rows: 0.002, max_batch_size=1)
    assert alone.served.metadata["batching"]["why"] == "batching.max_batch_size is 1"
    alone.close()
