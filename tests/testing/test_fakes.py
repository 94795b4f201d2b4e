"""The fakes keep the promises of what they stand for."""

from __future__ import annotations

import asyncio
import inspect

import numpy as np
import pytest

from keelway.clock import Clock
from keelway.ports import Runtime
from keelway.testing import FakeClock, FakeRuntime
from keelway.types import TensorSpec

SPEC = TensorSpec("x", "FP32", (-1,))


def test_a_runtime_without_delay_answers_directly() -> None:
    fake = FakeRuntime([SPEC], [SPEC], lambda inputs: {"x": inputs["x"] + 1, "y": inputs["x"]})
    runtime: Runtime = fake
    answer = runtime.run({"x": np.array([1.0], np.float32)}, ["y", "x"])
    assert not inspect.isawaitable(answer)
    assert [array.tolist() for array in answer] == [[1.0], [2.0]]
    assert fake.calls == [("y", "x")]


def test_a_runtime_with_a_delay_answers_later() -> None:
    runtime = FakeRuntime([SPEC], [SPEC], dict, delay=0.001)

    async def ask() -> object:
        answer = runtime.run({"x": np.array([1.0], np.float32)}, ["x"])
        assert inspect.isawaitable(answer)
        return await answer

    assert asyncio.run(ask()) == [np.array([1.0])]


def test_closing_is_counted() -> None:
    runtime = FakeRuntime([], [], dict)
    runtime.close()
    assert runtime.closed == 1


def test_a_clock_moves_only_when_told() -> None:
    fake = FakeClock(start=1_000.0)
    clock: Clock = fake
    assert (clock.now(), clock.monotonic()) == (1_000.0, 0.0)
    fake.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (1_002.5, 2.5)
    with pytest.raises(ValueError, match="go back"):
        fake.advance(-1)
