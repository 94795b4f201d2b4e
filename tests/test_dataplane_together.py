"""Requests of one turn that are checked together: each is told what it would be told alone. # V1 X1 T1"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.line import DETECTOR, SIGNATURE, VERSION, Line, run, scores

from keelway.codecs.json import OpenInferenceCodec
from keelway.contract.constraints import AnomalyRule, Constraint, Policy, ProbingRule
from keelway.dataplane import Answer
from keelway.errors import KeelwayError
from keelway.guard.validation import Validator
from keelway.types import Array

POLICIES = (
    Policy(1, (Constraint("age", 0, 130),)),
    Policy(2, (Constraint("age", 0, 55, on_violation="clip"), Constraint("income", 0, 55, on_violation="flag"))),
    Policy(3, (Constraint("age", 0, 130),), AnomalyRule("reject")),
    Policy(4, (), AnomalyRule("off")),
)
USUAL, STRANGE, OLD, MISSING = (50.0, 50.0), (60.0, 40.0), (131.0, 131.0), (50.0, None)
Row = tuple[float, float | None]


class Told:
    """What a request was answered, and whether that came at once."""

    def __init__(self, line: Line, body: bytes, **rest: Any) -> None:
        self.said: Any = None
        self.at_once = False
        try:
            answer = line.plane.infer(line.call(body, **rest))
        except KeelwayError as error:
            self._keep(error)
            return
        self.at_once = isinstance(answer, Answer)
        if isinstance(answer, Answer):
            self._keep(answer)
        else:
            self.task = asyncio.ensure_future(self._wait(answer))

    async def _wait(self, answer: Any) -> None:
        try:
            self._keep(await answer.future())
        except KeelwayError as error:
            self._keep(error)

    def _keep(self, outcome: Answer | KeelwayError) -> None:
        if isinstance(outcome, KeelwayError):
            self.said = (outcome.code, outcome.message, outcome.field)
        else:
            self.said = {
                key: value for key, value in json.loads(outcome.encoded.body).items() if not key.startswith("latency")
            }


def body(rows: Sequence[Row]) -> bytes:
    return json.dumps({"instances": [{"age": age, "income": income} for age, income in rows]}).encode()


def tensor(row: Row) -> bytes:
    return json.dumps({"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": row}]}).encode()


def told(asked: Line, *requests: Sequence[Row]) -> list[Any]:
    """What ``requests`` of one turn are answered."""
    made: list[Told] = []

    async def scenario() -> None:
        made.extend(Told(asked, body(rows)) for rows in requests)
        await asyncio.gather(*(one.task for one in made if hasattr(one, "task")))
        await asked.assert_idle()

    run(scenario())
    return [one.said for one in made]


def left(asked: Line) -> Mapping[str, Any]:
    """What requests have left behind, in whatever order they were answered."""
    names = ("ml_requests_total", "ml_anomalies_total", "ml_input_tags_total", "ml_validation_failures_total")
    records = sorted((record.code, record.rows, list(record.tags)) for record in asked.records())
    return {"records": records, **{name: asked.samples(name) for name in names}}


ROWS = st.sampled_from([USUAL, USUAL, USUAL, STRANGE, OLD, MISSING, (58.0, 58.0), (1e30, 2.0)])


@settings(max_examples=100)
@given(st.sampled_from(POLICIES), st.lists(st.lists(ROWS, min_size=1, max_size=3), min_size=1, max_size=9))
def test_each_request_of_a_turn_is_answered_counted_and_recorded_as_if_it_came_alone(
    policy: Policy, requests: list[list[Row]]
) -> None:
    together, alone = Line(batched=True).under(policy), Line().under(policy)
    assert told(together, *requests) == told(alone, *requests)
    assert left(together) == left(alone)


class Kept:
    """A line under ``policy``, and the rows of each run of its model."""

    def __init__(self, policy: Policy) -> None:
        self.runs: list[Any] = []
        self.line = Line(self._scores, batched=True).under(policy)

    def _scores(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.runs.append(inputs["input"].tolist())
        return scores(inputs)


def test_usual_rows_are_asked_about_once_for_all() -> None:
    asked, looks = Kept(POLICIES[0]), []

    class Watched(Validator):
        def _is_usual(self, inputs: Mapping[str, Array]) -> bool:
            looks.append(len(inputs["input"]))
            return super()._is_usual(inputs)

    asked.line.validate_by(Watched(SIGNATURE, POLICIES[0], None, DETECTOR))
    told(asked.line, *[[USUAL]] * 6)
    assert looks == [len(rows) for rows in asked.runs] == [6]


def test_who_is_refused_costs_the_others_no_run() -> None:
    asked = Kept(POLICIES[2])
    answers = told(asked.line, [USUAL], [STRANGE], [USUAL], [OLD])
    assert [answer[0] if isinstance(answer, tuple) else "OK" for answer in answers] == [
        "OK",
        "INVALID_ARGUMENT",
        "OK",
        "INVALID_ARGUMENT",
    ]
    assert asked.runs == [[list(USUAL)] * 2]


def test_what_is_clipped_is_run_once_as_clipped() -> None:
    asked = Kept(POLICIES[1])
    _, clipped = told(asked.line, [USUAL], [(70.0, 54.0)])
    assert "clipped:age" in clipped["flags"]
    assert asked.runs == [[[50, 50]], [[55, 54]]]


def test_requests_under_two_policies_are_each_held_to_their_own() -> None:
    asked, made = Line(batched=True).under(Policy(1, (), AnomalyRule("off"))), []

    async def scenario() -> None:
        made.append(Told(asked, body([OLD])))
        asked.validate_by(Validator(SIGNATURE, POLICIES[0], None, None))
        made.append(Told(asked, body([OLD])))
        await asyncio.gather(*(one.task for one in made))

    run(scenario())
    assert made[0].said["predictions"]
    assert made[1].said[0] == "INVALID_ARGUMENT"


def test_a_check_that_breaks_fails_the_request_and_nobody_waits_for_ever() -> None:
    asked = Line(batched=True).under(POLICIES[0])

    class Broken(Validator):
        def _is_usual(self, inputs: Mapping[str, Array]) -> bool:
            if (inputs["input"] == OLD[0]).any():
                raise ValueError("cannot tell")
            return super()._is_usual(inputs)

    asked.validate_by(Broken(SIGNATURE, POLICIES[0], None, DETECTOR, asked.clock.monotonic))
    good, bad = told(asked, [USUAL], [OLD])
    assert good["predictions"]
    assert bad == ("INTERNAL", "the model could not answer this request", None)


def test_where_clients_are_watched_each_request_is_looked_at_when_it_comes() -> None:
    policy = Policy(1, anomaly=AnomalyRule("off"), probing=ProbingRule("reject", 5, 60.0))
    asked = Line(batched=True).under(policy)
    answers = told(asked, *[[(50 + step / 1000, 50.0)] for step in range(12)])
    assert [answer[0] for answer in answers if isinstance(answer, tuple)] == ["RESOURCE_EXHAUSTED"] * 6
    assert asked.samples("ml_anomalies_total") == {(*VERSION, "probing"): 6}


def test_a_tensor_request_is_refused_by_the_same_words() -> None:
    said = []
    for batched in (True, False):
        asked = Line(batched=batched).under(POLICIES[0])
        made = []

        async def scenario(asked: Line = asked, made: list[Told] = made) -> None:
            made.append(Told(asked, tensor(OLD), codec=OpenInferenceCodec()))
            await asyncio.gather(*(one.task for one in made if hasattr(one, "task")))

        run(scenario())
        said.append(made[0].said)
    assert said[0] == said[1]
    assert said[0][0] == "INVALID_ARGUMENT"
