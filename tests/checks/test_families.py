# Y1: contract, robustness, expectations, budgets, skew and the metrics of every kind of model
from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.checks.subjects import checked, classified, customers, found, subject, truth

from keelway.checks.plan import parse_plan
from keelway.contract.signature import Feature
from keelway.errors import InvalidInput, Unsupported


def test_rows_that_a_server_refuses_fail_the_contract_and_the_feature_is_named() -> None:
    report = checked(subject(truth, refuses=lambda row: row["age"] > 80))
    finding = found(report, "contract", "rows are accepted")
    assert finding.verdict == "failed"
    assert "because of age" in finding.said
    assert found(report, "metrics", "roc_auc").verdict == "passed", "the others are judged all the same"


def test_answers_that_change_or_depend_on_their_neighbours_fail() -> None:
    calls = itertools.count()
    moody = subject(answers=lambda frame: classified(truth(frame) * 0.9 + 0.001 * (next(calls) % 7)))
    assert found(checked(moody), "contract", "answers repeat").verdict == "failed"
    crowd = subject(answers=lambda frame: classified(truth(frame) * (0.9 if len(frame) > 1 else 0.5)))
    report = checked(crowd)
    assert found(report, "contract", "answers repeat").verdict == "passed"
    assert found(report, "contract", "rows are independent").verdict == "failed"


def test_shares_that_are_no_probabilities_fail() -> None:
    def wrong(frame: pd.DataFrame) -> dict[str, Any]:
        return classified(truth(frame)) | {"probabilities": [[0.9, p] for p in truth(frame).tolist()]}

    assert found(checked(subject(answers=wrong)), "contract", "answers are valid").verdict == "failed"


def test_labels_that_the_model_does_not_know_fail() -> None:
    frame = customers()
    frame.loc[:9, "bought"] = "Perhaps"
    assert found(checked(subject(truth), frame), "contract", "labels are known").verdict == "failed"


def test_a_model_that_noise_confuses_fails() -> None:
    def brittle(frame: pd.DataFrame) -> Any:
        exact = np.isin(frame["age"].round(9), customers()["age"].round(9))
        return np.where(exact, truth(frame), 0.3)

    assert found(checked(subject(brittle)), "robustness", "roc_auc with noise").verdict == "failed"
    assert found(checked(subject(truth)), "robustness", "roc_auc with noise").verdict == "passed"


def test_missing_values_are_taken_away_where_they_may_be_missing() -> None:
    def needs_region(frame: pd.DataFrame) -> Any:
        return np.where(frame["region"].isna(), 0.0, truth(frame))

    plan = "[robustness]\nmissing = 0.3\n"
    assert found(checked(subject(needs_region), plan=plan), "robustness", "roc_auc with missing").verdict == "failed"
    assert found(checked(subject(truth), plan=plan), "robustness", "roc_auc with missing").verdict == "passed"


def by_region(frame: pd.DataFrame) -> Any:
    return np.clip(truth(frame) + 0.1 * (frame["region"] == "west"), 0, 1)


INVARIANT = "[[invariance]]\nfeature = 'region'\n"


@pytest.mark.parametrize("values", ["", "values = ['north', 'west']\n"])
def test_what_must_not_change_the_answer_is_found_to(values: str) -> None:
    assert found(checked(subject(truth), plan=INVARIANT + values), "expectations", "region").verdict == "passed"
    assert found(checked(subject(by_region), plan=INVARIANT + values), "expectations", "region").verdict == "failed"


@pytest.mark.parametrize(("expect", "verdict"), [("increase", "passed"), ("decrease", "failed")])
def test_what_may_move_the_answer_one_way_only(expect: str, verdict: str) -> None:
    plan = f"[[direction]]\nfeature = 'income'\nchange = 5\nexpect = '{expect}'\n"
    assert found(checked(subject(truth), plan=plan), "expectations", "income").verdict == verdict


def test_too_few_rows_do_not_prove_an_expectation() -> None:
    report = checked(subject(truth), customers(100), INVARIANT)
    assert found(report, "expectations", "region").verdict == "inconclusive"


def test_budgets_are_of_time_and_size() -> None:
    report = checked(subject(truth), customers(200), "[budgets]\nlatency_ms = 10000\nsize_mb = 1\n")
    assert found(report, "budgets", "size").verdict == "passed"
    assert found(report, "budgets", "share of requests").verdict == "passed"
    assert "on this machine" in found(report, "budgets", "share of requests").said
    report = checked(subject(truth), customers(200), "[budgets]\nlatency_ms = 0.0001\n")
    assert found(report, "budgets", "share of requests").verdict == "failed"


def test_predictions_of_the_training_side_are_held_against_the_served_ones() -> None:
    frame = customers().assign(trained=truth(customers()))
    plan = "[skew]\ncolumn = 'trained'\n"
    assert found(checked(subject(truth), frame, plan), "skew").verdict == "passed"
    frame.loc[5, "trained"] += 0.01
    finding = found(checked(subject(truth), frame, plan), "skew")
    assert finding.verdict == "failed"
    assert finding.said.startswith("1 of 4000 rows")


def of_numbers(error: float, version: str = "1.0.0") -> Any:
    return subject(
        features=[Feature("a", "FP64"), Feature("b", "FP64")],
        version=version,
        labels=(),
        answers=lambda rows: {"predictions": (rows["a"] + rows["b"] + error * np.sin(99 * rows["a"])).tolist()},
    )


def test_a_model_of_numbers_is_judged_by_its_errors() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"a": random.normal(size=2_000), "b": random.normal(size=2_000)})
    frame["bought"] = frame["a"] + frame["b"] + 0.3 * random.normal(size=2_000)
    plan = "[metrics]\nrmse = 0.35\nmae = 0.3\nr2 = 0.9\n"
    report = checked(of_numbers(0.0, "2.0.0"), frame, plan, old=of_numbers(0.1))
    assert report.outcome == "passed"
    worse = checked(of_numbers(0.4, "2.0.0"), frame, plan, old=of_numbers(0.0))
    assert {found(worse, "metrics", name, number=n).verdict for name, n in (("rmse", 0), ("mae", 0))} == {"failed"}
    assert found(worse, "champion", "mae, ratio").verdict == "failed"


def test_a_model_of_three_classes_is_judged_by_accuracy() -> None:
    random = np.random.default_rng(0)
    labels = ["a", "b", "c"]
    frame = pd.DataFrame({"x": random.integers(0, 3, 1_500).astype(float), "noise": random.normal(size=1_500)})
    frame["bought"] = [
        labels[int(x) if chance < 0.8 else 0] for x, chance in zip(frame["x"], random.random(1_500), strict=True)
    ]

    def answers(rows: pd.DataFrame) -> dict[str, Any]:
        shares = np.full((len(rows), 3), 0.1)
        shares[np.arange(len(rows)), rows["x"].astype(int)] = 0.8
        return {"predictions": [labels[int(x)] for x in rows["x"]], "labels": labels, "probabilities": shares.tolist()}

    model = subject(features=[Feature("x", "FP64"), Feature("noise", "FP64")], labels=labels, answers=answers)
    report = checked(model, frame, "[metrics]\naccuracy = 0.8\nlog_loss = 0.7\n[leakage]\naccept = ['x']\n")
    assert found(report, "metrics", "accuracy over the most frequent class").verdict == "passed"
    assert found(report, "calibration", "observed").verdict == "passed"
    assert report.outcome == "passed"


def test_what_is_no_table_and_what_is_not_there_is_said() -> None:
    with pytest.raises(Unsupported, match="only tables"):
        checked(subject(truth, [Feature("age", "FP64", shape=(3,))]))
    with pytest.raises(InvalidInput, match="no column 'age'"):
        checked(subject(truth), customers().drop(columns="age"))
    with pytest.raises(InvalidInput, match="no value of the target is a label"):
        checked(subject(truth), customers().assign(bought=1))
    with pytest.raises(InvalidInput, match="there is no metric 'auc'"):
        checked(subject(truth), plan="[metrics]\nauc = 0.7\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metrics = 3", "checks cannot be read"),
        ("[champion]\nmargn = 1", "margn"),
        ("alpha = 0.9", "less than chance"),
        ("[[invariance]]\nfeature = 'x'\nat_most = 0.0", "above 0 and below 1"),
        ("[champion]\nmargin = -0.1", "not be negative"),
        ("[calibration]\nratio = [1.1, 2.0]", "must hold 1"),
        ("declared = ['x']", "no part"),
        ("a = [", "not valid TOML"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse_plan(text)


@pytest.mark.parametrize(("positive", "expect"), [("'1'", "increase"), ("1.0", "increase"), ("0", "decrease")])
def test_the_event_is_the_label_that_is_named_however_it_is_spelled(positive: str, expect: str) -> None:
    plan = f"positive = {positive}\n[[direction]]\nfeature = 'income'\nchange = 5\nexpect = '{expect}'\n"
    frame = customers().assign(bought=0.0, trained=truth(customers()))
    report = checked(subject(truth, labels=("0", "1")), frame, plan, target="")
    assert found(report, "expectations").verdict == "passed"
    skew = found(
        checked(subject(truth, labels=("0", "1")), frame, plan + "[skew]\ncolumn = 'trained'\n", target=""), "skew"
    )
    assert skew.verdict == ("passed" if expect == "increase" else "failed")


def test_an_event_that_is_no_label_is_refused_even_without_a_truth() -> None:
    plan = "positive = 'Maybe'\n[[direction]]\nfeature = 'income'\nchange = 5\nexpect = 'increase'\n"
    with pytest.raises(InvalidInput, match="'Maybe', the event, is no label"):
        checked(subject(truth), plan=plan, target="")


def test_trained_labels_are_compared_by_what_they_mean() -> None:
    said = classified(truth(customers()), ("0", "1"))["predictions"]
    frame = customers().assign(trained=[int(label) for label in said])
    model = subject(truth, labels=("0", "1"))
    assert found(checked(model, frame, "[skew]\ncolumn = 'trained'\n", target=""), "skew").verdict == "passed"
