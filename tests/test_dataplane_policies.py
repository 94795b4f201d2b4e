"""The request line under a policy: what the caller, the metrics and the records are told. # V1 X1"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.line import VERSION, Line

from keelway.contract.constraints import AnomalyRule, Constraint, Policy, ProbingRule
from keelway.errors import AnomalousInput, InvalidInput, Probing
from keelway.types import Peer

USUAL, STRANGE = {"age": 50, "income": 50}, {"age": 60, "income": 40}


def body(*rows: Mapping[str, Any], **rest: Any) -> bytes:
    return json.dumps({"instances": rows, **rest}).encode()


def ask(asked: Line, *rows: Mapping[str, Any], **rest: Any) -> Any:
    return json.loads(asked.now(body(*rows), **rest).encoded.body)


def test_a_tag_is_told_counted_and_recorded() -> None:
    asked = Line().under(Policy(1))
    assert ask(asked, USUAL).get("flags") in (None, [])
    assert ask(asked, STRANGE, STRANGE, USUAL)["flags"] == ["anomaly:mahalanobis"]
    assert asked.samples("ml_anomalies_total") == {(*VERSION, "mahalanobis"): 2}
    assert asked.samples("ml_input_tags_total") == {(*VERSION, "anomaly:mahalanobis"): 1}
    assert [list(record.tags) for record in asked.records()] == [[], ["anomaly:mahalanobis"]]


def test_a_shadow_is_counted_and_recorded_and_not_told() -> None:
    asked = Line().under(Policy(1, anomaly=AnomalyRule("shadow")))
    assert ask(asked, STRANGE).get("flags") in (None, [])
    assert asked.samples("ml_anomalies_total") == {(*VERSION, "mahalanobis"): 1}
    assert asked.samples("ml_input_tags_total") == {}
    (record,) = asked.records()
    assert list(record.tags) == ["anomaly:mahalanobis"]


def test_off_is_off() -> None:
    asked = Line().under(Policy(1, anomaly=AnomalyRule("off")))
    ask(asked, STRANGE)
    assert asked.samples("ml_anomalies_total") == {}
    assert list(asked.records()[0].tags) == []


def test_a_refusal_is_one_row_beside_good_ones_and_a_whole_request_alone() -> None:
    asked = Line().under(Policy(1, anomaly=AnomalyRule("reject")))
    answer = ask(asked, USUAL, STRANGE)
    assert [error["row"] for error in answer["errors"]] == [1]
    assert "40" not in json.dumps(answer["errors"])  # nothing of the values
    with pytest.raises(AnomalousInput) as refusal:
        asked.now(body(STRANGE))
    assert refusal.value.code == "INVALID_ARGUMENT"
    assert asked.samples("ml_anomalies_total") == {(*VERSION, "mahalanobis"): 2}
    assert asked.samples("ml_validation_failures_total") == {(*VERSION, ""): 2}
    assert [list(record.tags) for record in asked.records()] == [["anomaly:mahalanobis"]] * 2


def test_a_row_that_is_refused_for_a_value_is_not_anomalous_besides() -> None:
    asked = Line().under(Policy(1, (Constraint("age", maximum=55),)))
    assert [error["row"] for error in ask(asked, USUAL, STRANGE)["errors"]] == [1]
    assert asked.samples("ml_anomalies_total") == {}


def test_a_request_that_is_refused_for_another_row_tells_of_its_anomalies_too() -> None:
    asked = Line().under(Policy(1, (Constraint("age", maximum=75),), AnomalyRule("reject")))
    with pytest.raises(InvalidInput, match="'age' is outside"):
        asked.now(body({"age": 80, "income": 80}, STRANGE))
    assert asked.samples("ml_anomalies_total") == {(*VERSION, "mahalanobis"): 1}


def test_a_clipped_value_is_what_the_model_and_the_key_see() -> None:
    policy = Policy(1, (Constraint("age", 0, 60, on_violation="clip"),), AnomalyRule("off"))
    asked = Line(cache={}).under(policy)
    first = ask(asked, {"age": 60, "income": 1})
    again = asked.now(body({"age": 99, "income": 1}))
    assert again.cache_status == b"keelway; hit"
    answer = json.loads(again.encoded.body)
    assert answer["predictions"] == first["predictions"]
    assert answer["flags"] == ["clipped:age"]
    assert len(asked.runtime.calls) == 1
    assert ask(asked, {"age": 60, "income": 1}).get("flags") in (None, [])


def test_tags_are_the_same_whether_an_answer_was_cached() -> None:
    policy = Policy(1, (Constraint("age", 0, 55, on_violation="flag"),))
    asked = Line(cache={}).under(policy)
    told = [ask(asked, STRANGE)["flags"] for _ in range(3)]
    assert told == [["outside:age", "anomaly:mahalanobis"]] * 3
    assert [record.cached for record in asked.records()] == [False, True, True]
    assert asked.samples("ml_anomalies_total") == {(*VERSION, "mahalanobis"): 3}


def test_a_missing_value_that_may_not_be_is_refused_or_flagged() -> None:
    row = {"age": 50, "income": None}
    with pytest.raises(InvalidInput, match="'income' is missing"):
        Line().under(Policy(1, (Constraint("income", nullable=False),))).now(body(row))
    flagged = Line().under(Policy(1, (Constraint("income", nullable=False, on_violation="flag"),)))
    assert ask(flagged, row)["flags"] == ["outside:income"]


def test_clients_without_a_name_are_told_apart_by_address() -> None:
    asked = Line().under(Policy(1, anomaly=AnomalyRule("off"), probing=ProbingRule("reject", 5, 60.0)))

    def probe(address: str) -> None:
        for step in range(20):
            asked.now(body({"age": 50 + step / 1000, "income": 50}), peer=Peer(address))

    with pytest.raises(Probing):
        probe("192.0.2.1")
    refused = asked.samples("ml_anomalies_total")[(*VERSION, "probing")]
    assert refused == 1
    asked.now(body(USUAL), peer=Peer("192.0.2.2"))
    codes = [record.code for record in asked.records()]
    assert codes[-2:] == ["RESOURCE_EXHAUSTED", "OK"]
