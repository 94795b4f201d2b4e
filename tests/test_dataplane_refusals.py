"""Rows that only the model itself can judge: the good ones are answered, wherever the model runs. # R2"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pytest
from tests.line import VERSION, Line, assert_one_outcome, one_worker, run

from keelway.codecs.json import OpenInferenceCodec
from keelway.codecs.tensorflow import TensorFlowCodec
from keelway.errors import InvalidInput, RowsRefused
from keelway.types import Array

WAYS = pytest.mark.parametrize("way", ["directly", "awaited", "in a thread", "in a turn"])


def picky(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """Refuses ages of 13, and of what is left ages of 14: it finds out in two turns."""
    ages = inputs["input"][:, 0]
    for unlucky in (13, 14):
        rows = np.flatnonzero(ages == unlucky).tolist()
        if rows:
            raise RowsRefused.of({row: InvalidInput(f"{unlucky} is unlucky", field="age") for row in rows})
    return {"score": ages, "pair": inputs["input"]}


def ask(way: str, body: Any, **rest: Any) -> tuple[Line, Any]:
    """The line and the document it answers."""
    said: list[Any] = []

    async def scenario(executor: Executor) -> None:
        delay = 0.001 if way == "awaited" else 0
        in_thread = executor if way == "in a thread" else None
        line = Line(picky, delay=delay, executor=in_thread, batched=way == "in a turn")
        said.append(line)
        content = json.dumps(body).encode()
        try:
            answer = line.now(content, **rest) if way == "directly" else await line.later(content, **rest)
            said.append(json.loads(answer.encoded.body))
        except InvalidInput as error:
            said.append(error)
        await line.assert_idle()
        await asyncio.sleep(0)

    with one_worker() as executor:
        run(scenario(executor))
    line, answer = said
    return line, answer


def rows(*ages: float | None) -> dict[str, Any]:
    return {"instances": [{"age": age, "income": 1} for age in ages]}


@WAYS
def test_the_rows_it_refuses_are_answered_beside_the_good_ones(way: str) -> None:
    line, answer = ask(way, rows(13, 40, 14, 13, 41))
    scores = [row and row["score"] for row in answer["predictions"]]
    assert scores == [None, 40, None, None, 41]
    assert [(e["row"], e["message"], e["field"]) for e in answer["errors"]] == [
        (0, "13 is unlucky", "age"),
        (2, "14 is unlucky", "age"),
        (3, "13 is unlucky", "age"),
    ]
    assert len(line.runtime.calls) == 3
    record = assert_one_outcome(line, "OK")
    assert record.rows == 2
    assert line.samples("ml_validation_failures_total") == {(*VERSION, "age"): 3}


@WAYS
def test_rows_refused_before_it_ran_keep_their_places(way: str) -> None:
    _, answer = ask(way, rows(None, 13, 500, 40, 14))
    assert [row and row["score"] for row in answer["predictions"]] == [None, None, None, 40, None]
    assert {error["row"]: error["message"] for error in answer["errors"]} == {
        0: "'age' is missing and may not be",
        1: "13 is unlucky",
        2: "'age' is outside its declared range",
        4: "14 is unlucky",
    }


@WAYS
def test_if_none_is_left_the_request_is_refused(way: str) -> None:
    line, error = ask(way, rows(14, 13, 14))
    assert (error.message, error.field) == ("14 is unlucky", "age")
    assert_one_outcome(line, "INVALID_ARGUMENT")


@WAYS
def test_an_atomic_request_is_refused_with_the_number_of_the_row(way: str) -> None:
    tensor = {"name": "input", "shape": [3, 2], "datatype": "FP32", "data": [40, 1, 14, 1, 13, 1]}
    for codec, body in ((OpenInferenceCodec(), {"inputs": [tensor]}), (TensorFlowCodec(), rows(40, 14, 13))):
        line, error = ask(way, body, codec=codec)
        assert error.message == "row 2: 13 is unlucky"
        assert len(line.runtime.calls) == 1
        assert_one_outcome(line, "INVALID_ARGUMENT")
