"""The queue of a model in worker threads: who shares a run, who waits, who is refused, and that nobody is forgotten.

# T1 T2 T3
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.batching.world import GUILTY, LINEAR, SHORT, Caller, Meters, Model, World, batcher_of, some_rows

from keelway.batching.curve import Curve
from keelway.errors import DeadlineExceeded, ModelFailed, Overloaded
from keelway.types import Priority


class Scene:
    """A world with a model, its batcher and callers."""

    def __init__(self, factors: tuple[float, ...] = (1.0,), **options: Any) -> None:
        self.world = World()
        self.model = Model(self.world, options.get("curve") or LINEAR, factors)
        self.meters = Meters()
        self.batcher = batcher_of(self.world, self.model, self.meters, **options)

    def ask(self, *values: float, width: int = 2, **asked: Any) -> Caller:
        return Caller(self.batcher, self.world, some_rows(*values, width=width), **asked)

    @property
    def sizes(self) -> list[int]:
        return [len(run) for run in self.model.runs]


def outcome(caller: Caller) -> Any:
    (told,) = caller.told
    return told if isinstance(told, Exception) else [output.tolist() for output in told]


def test_a_lone_request_starts_when_it_comes() -> None:
    scene = Scene()
    caller = scene.ask(1)
    assert scene.sizes == [1]
    scene.world.live()
    assert outcome(caller) == [[3]]
    assert caller.seconds() == pytest.approx(LINEAR.seconds(1))


def test_a_free_slot_takes_all_that_waits_up_to_the_limit() -> None:
    scene = Scene(max_rows=4)
    callers = [scene.ask(value) for value in range(8)]
    scene.world.live()
    assert scene.sizes == [1, 4, 3]
    assert [outcome(caller) for caller in callers] == [[[2 * value + 1]] for value in range(8)]
    assert scene.meters.rows == [1, 4, 3]
    assert len(scene.meters.waits) == 8


def test_rows_of_a_request_are_split_and_come_back_in_their_order() -> None:
    scene = Scene(max_rows=4, slots=2, factors=(3.0, 1.0))
    large, small = scene.ask(*range(11)), scene.ask(100)
    scene.world.live()
    assert outcome(large) == [[2 * value + 1 for value in range(11)]]
    assert outcome(small) == [[201]]
    assert max(scene.sizes) == 4


def test_a_large_request_lets_small_ones_pass_between_its_runs() -> None:
    scene = Scene(max_rows=4)
    large = scene.ask(*range(40))
    small = scene.ask(100)
    scene.world.live()
    assert small.at < large.at
    assert small.seconds() <= 3.01 * LINEAR.seconds(4)


def test_a_thread_goes_on_with_a_full_run_before_the_loop_hears_of_the_last_one() -> None:
    scene = Scene(max_rows=4)
    scene.world.deaf = 0.002
    callers = [scene.ask(*range(4)) for _ in range(3)]
    scene.world.live()
    assert scene.sizes == [4, 4, 4]
    assert callers[1].seconds() == pytest.approx(2 * LINEAR.seconds(4) + 0.002)
    assert callers[2].seconds() == pytest.approx(3 * LINEAR.seconds(4) + 0.002)


def test_a_run_that_is_not_full_is_not_chosen_before_a_slot_is_free() -> None:
    scene = Scene(max_rows=4)
    scene.ask(0)
    scene.ask(1)
    scene.world.call_later(0.001, lambda: scene.ask(2))
    scene.world.live()
    assert scene.sizes == [1, 2]


def test_the_run_that_is_next_for_a_slot_counts_in_what_a_new_request_waits_for() -> None:
    scene = Scene(max_rows=4)
    for _ in range(2):
        scene.ask(*range(4))
    assert scene.ask(8, deadline=1.9 * LINEAR.seconds(4)).refused is not None
    assert scene.ask(8, deadline=2.1 * LINEAR.seconds(4) + LINEAR.seconds(1)).refused is None


def test_other_shapes_and_outputs_never_share_a_run() -> None:
    scene = Scene()
    scene.ask(0)
    for value in range(3):
        scene.ask(value)
        scene.ask(value, width=3)
        scene.ask(value, wanted=("y", "z"))
    scene.world.live()
    assert scene.sizes == [1, 3, 3, 3]


def test_only_the_guilty_request_fails_and_a_short_answer_is_nobodys() -> None:
    scene = Scene()
    scene.ask(0)
    callers = [scene.ask(value) for value in (1, GUILTY, 2, SHORT, 3)]
    scene.world.live()
    one, guilty, two, short, three = map(outcome, callers)
    assert (one, two, three) == ([[3]], [[5]], [[7]])
    assert isinstance(guilty, ValueError)
    assert isinstance(short, ModelFailed)


@pytest.mark.parametrize("error", [SystemExit(1), KeyError("x"), StopIteration()])
def test_whatever_a_model_raises_a_slot_comes_back(error: BaseException) -> None:
    scene = Scene()
    work = scene.model.run

    def run(inputs: Any, outputs: Any) -> Any:
        answer = work(inputs, outputs)
        if len(scene.model.runs) == 1:
            raise error
        return answer

    scene.batcher._run = run
    first, second = scene.ask(1), scene.ask(2)
    scene.world.live()
    assert isinstance(outcome(first), Exception)
    assert outcome(second) == [[5]]


def test_who_has_left_is_not_run_for_and_is_told_once() -> None:
    scene = Scene()
    scene.ask(0)
    gone, here = scene.ask(1), scene.ask(2)
    gone.leave()
    assert scene.batcher.waiting_rows == 1
    scene.world.live()
    assert gone.told == [()]
    assert outcome(here) == [[5]]
    assert [run.tolist() for run in scene.model.runs] == [[0], [2]]


def test_a_request_hears_at_its_deadline_although_the_model_goes_on() -> None:
    scene = Scene(factors=(50.0, 1.0))
    caller = scene.ask(1, deadline=0.05)
    scene.world.live()
    assert isinstance(outcome(caller), DeadlineExceeded)
    assert caller.at == pytest.approx(0.05)


def test_a_run_is_no_larger_than_its_earliest_deadline_allows() -> None:
    # 2 ms and 0.2 ms a row: with 3 ms left there is time for five rows.
    scene = Scene()
    scene.ask(0)
    hurried = scene.ask(1, deadline=0.0022 + 0.00301)
    others = [scene.ask(value) for value in range(20)]
    scene.world.live()
    assert scene.sizes == [1, 5, 16]
    assert hurried.answered
    assert all(caller.answered for caller in others)


def test_who_would_be_late_is_refused_at_once_with_a_time_to_come_back() -> None:
    scene = Scene()
    callers = [scene.ask(value, deadline=0.05) for value in range(400)]
    refused = [caller.refused for caller in callers if caller.refused]
    assert refused
    assert all(error.retry_after and error.retry_after > 0 for error in refused)
    scene.world.live()
    assert all(caller.answered or caller.refused for caller in callers)
    assert set(scene.meters.refused) == {"late"}


def test_who_finds_a_free_slot_is_tried_whatever_the_estimate_says() -> None:
    """A curve measured on a bad moment must not keep a model from ever being asked."""
    scene = Scene(factors=(0.01,))
    caller = scene.ask(1, deadline=0.001)
    scene.world.live()
    assert caller.answered


def test_the_queue_is_bounded_in_rows_but_takes_a_single_large_request() -> None:
    scene = Scene(max_rows=4, max_queue_rows=8)
    scene.ask(0)
    assert scene.ask(*range(100)).refused is None
    assert scene.ask(1, 2, 3, 4).refused is None
    refused = scene.ask(1)
    assert isinstance(refused.refused, Overloaded)
    assert refused.refused.retry_after is not None
    assert scene.meters.refused == ["queue_full"]
    scene.world.live()


def test_batch_requests_take_what_interactive_ones_leave_and_make_room_for_them() -> None:
    scene = Scene(max_rows=2, max_queue_rows=4)
    scene.ask(0)
    batch = [scene.ask(value, priority=Priority.BATCH) for value in (1, 2, 3)]
    interactive = [scene.ask(value) for value in (11, 12, 13, 14, 15)]
    assert scene.ask(4, priority=Priority.BATCH).refused is not None
    scene.world.live()
    assert all(caller.answered for caller in interactive)
    assert [caller.answered for caller in batch] == [True, False, False]
    assert all(isinstance(outcome(caller), Overloaded) for caller in batch[1:])
    assert scene.meters.refused == ["displaced", "displaced", "queue_full"]
    assert [run.tolist() for run in scene.model.runs] == [[0], [11, 12], [13, 14], [15, 1]]


def test_batch_requests_leave_the_last_slot_to_who_may_come() -> None:
    scene = Scene(slots=2, max_rows=1)
    first, second = (scene.ask(value, priority=Priority.BATCH) for value in (1, 2))
    caller = scene.ask(3)
    assert scene.sizes == [1, 1]
    scene.world.live()
    assert caller.seconds() == pytest.approx(LINEAR.seconds(1))
    assert first.answered
    assert second.answered


def test_a_slot_waits_for_company_only_as_long_as_it_is_told() -> None:
    scene = Scene(max_delay=0.005, max_rows=4)
    callers = [scene.ask(1)]
    scene.world.call_later(0.002, lambda: callers.append(scene.ask(2)))
    scene.world.live()
    assert scene.sizes == [2]
    assert callers[0].seconds() == pytest.approx(0.005 + LINEAR.seconds(2))
    full = [scene.ask(value) for value in range(4)]
    assert scene.sizes == [2, 4]
    scene.world.live()
    assert all(caller.answered for caller in full)


def test_company_is_not_waited_for_where_the_deadline_would_pass() -> None:
    scene = Scene(max_delay=1.0, max_rows=4)
    caller = scene.ask(1, deadline=0.02)
    scene.world.live()
    assert caller.answered


def test_where_runs_are_not_shared_every_request_is_one_whatever_its_size() -> None:
    scene = Scene(max_rows=0)
    callers = [scene.ask(*range(rows)) for rows in (1, 50, 2)]
    scene.world.live()
    assert scene.sizes == [1, 50, 2]
    assert all(caller.answered for caller in callers)


def test_without_a_measured_curve_the_first_run_teaches() -> None:
    scene = Scene(max_rows=0)
    scene.batcher = batcher_of(scene.world, scene.model, scene.meters, max_rows=0, curve=None)
    assert scene.ask(1, deadline=1.0).refused is None
    scene.world.live()
    scene.ask(1)
    now = scene.world.clock.monotonic()
    assert scene.ask(2, deadline=now + 0.001).refused is not None


def test_estimates_follow_a_model_that_has_become_slower() -> None:
    scene = Scene(factors=(10.0,))
    for value in range(30):
        scene.ask(value)
        scene.world.live()
    scene.ask(0)
    now = scene.world.clock.monotonic()
    assert scene.ask(1, deadline=now + 0.03).refused is not None  # 4.4 ms by the curve, 44 by experience


def overload(times: float, slots: int = 1, seconds: float = 1.5, allowed: float = 0.05, **options: Any) -> Scene:
    """Requests of one row that come at random, ``times`` what the model can answer. ``scene.callers`` has them."""
    scene = Scene(slots=slots, factors=(1.0, 1.1, 0.95, 1.02), **options)
    capacity = slots * LINEAR.rate(32)
    random = np.random.default_rng(0)
    scene.callers = []  # type: ignore[attr-defined]

    def arrive() -> None:
        now = scene.world.clock.monotonic()
        scene.callers.append(scene.ask(1, deadline=now + allowed))  # type: ignore[attr-defined]
        if now < seconds:
            scene.world.call_later(random.exponential(1 / (times * capacity)), arrive)

    arrive()
    scene.world.live()
    return scene


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("times", [1.5, 4.0])
def test_under_overload_most_of_the_capacity_answers_in_time(times: float, slots: int) -> None:
    scene = overload(times, slots)
    answered = [caller for caller in scene.callers if caller.answered]  # type: ignore[attr-defined]
    assert len(answered) / 1.5 >= 0.9 * slots * LINEAR.rate(32)
    assert max(caller.seconds() for caller in answered) <= 0.05
    unanswered = [caller for caller in scene.callers if not caller.answered]  # type: ignore[attr-defined]
    assert all(caller.refused for caller in unanswered) or len([c for c in unanswered if not c.refused]) < 0.02 * len(
        answered
    )


def test_at_saturation_runs_are_full() -> None:
    scene = overload(1.5, allowed=math.inf, seconds=1.0)
    assert sum(scene.sizes[5:-1]) / len(scene.sizes[5:-1]) >= 31.9


def test_a_flat_curve_and_a_steep_one_answer_too() -> None:
    for curve in (Curve(((1, 0.001), (32, 0.001))), Curve(((1, 0.001), (32, 0.032)))):
        scene = Scene(curve=curve)
        callers = [scene.ask(value, deadline=1.0) for value in range(64)]
        scene.world.live()
        assert all(caller.answered for caller in callers)
