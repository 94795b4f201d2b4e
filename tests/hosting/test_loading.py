"""Loading a version: warmed up with plausible values, and put where its measured run belongs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.serving import SCORE_SIGNATURE, Item, Shelf, forest_item, score

from keelway.clock import SystemClock
from keelway.config import RuntimeSettings, Settings, load_settings
from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.constraints import Policy
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import UntrustedArtifact
from keelway.hosting.loading import Loaded, example_inputs, load_version, runtime_options, usable_cpus
from keelway.hosting.sources import Release
from keelway.observe.metrics import ServingMetrics
from keelway.testing import FakeRuntime
from keelway.types import Array, TensorSpec

MIXED = ModelSignature(
    features=(Feature("age", "FP32"), Feature("city", "BYTES"), Feature("image", "UINT8", shape=(-1, 3))),
    inputs=(
        TensorSpec("numbers", "FP32", (-1, 1), ("age",)),
        TensorSpec("texts", "BYTES", (-1, 1), ("city",)),
        TensorSpec("image", "UINT8", (-1, -1, 3)),
    ),
    outputs=(TensorSpec("y", "FP32", (-1,)),),
)


def load(item: Item, **settings: object) -> Loaded:
    shelf = Shelf().put("m", "1.0.0", item).want("m", "1.0.0")
    release = item.release("m", "1.0.0")
    return load_version(shelf, release, load_settings(None, {}, {"runtime": settings}), SystemClock(), ServingMetrics())


def sleeping(seconds: float, thread_safe: bool = False) -> Callable[[], FakeRuntime]:
    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        time.sleep(seconds)
        return {"score": inputs["input"][:, 0]}

    return lambda: FakeRuntime(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, run, thread_safe=thread_safe)


def test_a_fast_model_runs_on_the_event_loop() -> None:
    loaded = load(Item(score), inline_below_ms=50.0)
    assert loaded.served.executor is None
    assert loaded.run_seconds is not None
    assert loaded.run_seconds < 0.05
    loaded.close()


@pytest.mark.parametrize(("thread_safe", "threads"), [(True, 3), (False, 1)])
def test_a_slow_model_gets_threads_of_its_own_as_many_as_it_can_take(thread_safe: bool, threads: int) -> None:
    loaded = load(Item(sleeping(0.005, thread_safe)), slots=3, inline_below_ms=1.0)
    executor = loaded.served.executor
    assert isinstance(executor, ThreadPoolExecutor)
    assert executor._max_workers == threads
    loaded.close()


def test_the_first_runs_of_a_model_do_not_decide() -> None:
    """They pay for what is built lazily."""
    delays = iter([0.02])

    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        time.sleep(next(delays, 0.0))
        return {"score": inputs["input"][:, 0]}

    loaded = load(Item(lambda: FakeRuntime(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, run)), inline_below_ms=10.0)
    assert loaded.served.executor is None
    loaded.close()


def test_a_very_slow_model_is_not_warmed_up_for_long() -> None:
    began = time.monotonic()
    loaded = load(Item(sleeping(0.2)))
    assert time.monotonic() - began < 3.0  # a second for the batches, which are begun only if they fit into it
    assert loaded.run_seconds is not None
    assert loaded.run_seconds > 0.1
    loaded.close()


def test_a_model_that_answers_later_is_awaited_and_not_put_in_a_thread() -> None:
    loaded = load(Item(lambda: score(delay=1.0)))
    assert (loaded.served.executor, loaded.run_seconds) == (None, None)
    loaded.close()


def test_a_model_that_refuses_made_up_values_is_served_all_the_same() -> None:
    def refuse(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise IndexError("no such embedding")

    loaded = load(Item(lambda: FakeRuntime(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, refuse)))
    assert loaded.run_seconds is None
    assert loaded.served.executor is not None
    loaded.close()


def test_a_failure_leaves_nothing_open() -> None:
    runtimes: list[FakeRuntime] = []

    def refuse(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise UntrustedArtifact("not without consent")

    def opener() -> FakeRuntime:
        runtimes.append(FakeRuntime(SCORE_SIGNATURE.inputs, SCORE_SIGNATURE.outputs, refuse))
        return runtimes[0]

    with pytest.raises(UntrustedArtifact):
        load(Item(opener))
    assert runtimes[0].closed == 1


def test_a_real_model_is_served_with_its_own_digest_where_the_release_has_none() -> None:
    item = forest_item()
    shelf = Shelf().put("iris", "0.0.0", item).want("iris", "0.0.0")
    release = Release("iris", "0.0.0", "", Policy(), None)
    loaded = load_version(shelf, release, Settings(), SystemClock(), ServingMetrics())
    assert loaded.served.model_digest.startswith("sha256:")
    assert loaded.run_seconds is not None
    loaded.close()


def test_the_example_is_what_the_sample_showed_in_the_middle() -> None:
    baseline = Baseline(
        10,
        (
            ObservedFeature("age", 10, edges=(18.0, 41.0, 90.0)),
            ObservedFeature("city", 10, categories={"Rome": 2, "Oslo": 7, "Bern": 1}),
        ),
    )
    inputs = example_inputs(MIXED, baseline)
    assert inputs["numbers"].tolist() == [[41.0]]
    assert inputs["texts"].tolist() == [["Oslo"]]
    assert (inputs["image"].shape, inputs["image"].dtype) == ((1, 1, 3), np.uint8)


def test_without_a_sample_the_example_is_zeros_and_empty_texts() -> None:
    inputs = example_inputs(MIXED, None)
    assert (inputs["numbers"].tolist(), inputs["texts"].tolist()) == ([[0.0]], [[""]])


def test_the_operators_side_of_a_runtime() -> None:
    options = runtime_options(RuntimeSettings(threads=0, allowed_python=("sha256:a",), trusted_types=("T",)))
    assert options.threads == usable_cpus()
    assert (options.allowed_python, options.trusted_types) == ({"sha256:a"}, {"T"})
    assert runtime_options(RuntimeSettings(threads=3)).threads == 3


def test_the_cpus_are_those_this_process_may_use() -> None:
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))


def test_a_model_of_one_text_a_row_is_loaded_and_shown_with_an_example() -> None:
    signature = ModelSignature(
        (Feature("text", "BYTES"), Feature("count", "INT64")),
        (TensorSpec("text", "BYTES", (-1,)), TensorSpec("count", "INT64", (-1, 1))),
        (TensorSpec("y", "FP32", (-1,)),),
    )
    runtime = FakeRuntime(signature.inputs, signature.outputs, lambda inputs: {"y": np.zeros(1, np.float32)})
    loaded = load(Item(lambda: runtime, signature))
    assert loaded.served.metadata["example"] == {"text": "", "count": 0}
    loaded.close()


def test_a_runtime_with_an_example_is_warmed_up_with_it_and_kept_off_the_event_loop() -> None:
    """However fast it was: the next picture may be a thousand times as large."""
    given: list[list[object]] = []

    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        given.append(inputs["picture"].tolist())
        return {"score": np.zeros(1, np.float32)}

    signature = ModelSignature(
        (Feature("picture", "BYTES"),),
        (TensorSpec("picture", "BYTES", (-1,)),),
        (TensorSpec("score", "FP32", (-1,)),),
    )

    def open_runtime() -> FakeRuntime:
        runtime = FakeRuntime(signature.inputs, signature.outputs, run)
        runtime.examples = {"picture": np.array([b"\xff\xd8"], object)}  # type: ignore[attr-defined]
        return runtime

    loaded = load(Item(open_runtime, signature), inline_below_ms=1000.0)
    assert given
    assert all(each == [b"\xff\xd8"] for each in given)
    assert loaded.run_seconds is not None
    assert loaded.served.executor is not None
    assert loaded.served.metadata["batching"]["policy"] == "none"
    assert loaded.served.metadata["example"] == {"picture": {"b64": "/9g="}}
    loaded.close()
