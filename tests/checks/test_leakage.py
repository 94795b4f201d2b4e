# Y1: smells of leakage: each of them is found, and lawful columns are not suspected
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.checks.subjects import checked, classified, customers, found, subject, truth

from keelway.checks.leakage import is_identifier, is_moment, is_target_encoded
from keelway.contract.signature import Feature

RANDOM = np.random.default_rng(0)
FEATURES = [Feature(name, "FP64") for name in ("age", "income", "visits", "told")]


def leaky(frame: pd.DataFrame, wrong: float) -> pd.DataFrame:
    """With a column that knows who has bought, but for a share of ``wrong``."""
    random = np.random.default_rng(1)
    return frame.assign(told=((frame["bought"] == "Yes") ^ (random.random(len(frame)) < wrong)).astype(float))


def test_a_feature_that_reaches_the_score_alone_fails_and_is_named() -> None:
    both = subject(lambda frame: 0.9 * frame["told"].to_numpy() + 0.1 * truth(frame), FEATURES)
    report = checked(both, leaky(customers(), 0.005))
    assert found(report, "leakage", "a single feature: told").verdict == "failed"
    assert report.outcome == "failed"


def test_a_feature_that_a_person_has_accepted_stops_nothing() -> None:
    both = subject(lambda frame: 0.9 * frame["told"].to_numpy() + 0.1 * truth(frame), FEATURES)
    report = checked(both, leaky(customers(), 0.02), "[leakage]\naccept = ['told']\n")
    assert found(report, "leakage", "a single feature").verdict == "passed"


def test_text_that_knows_the_answer_is_found_too() -> None:
    frame = customers()
    frame["region"] = np.where(
        frame["bought"] == "Yes", RANDOM.choice(["a", "b"], 4_000), RANDOM.choice(["c", "d"], 4_000)
    )
    knows = subject(lambda rows: 0.8 * rows["region"].isin(["a", "b"]).to_numpy() + 0.1 * truth(rows))
    assert found(checked(knows, frame), "leakage", "a single feature: region").verdict == "failed"


def test_the_strongest_lawful_feature_is_not_suspected() -> None:
    finding = found(checked(subject(truth)), "leakage", "a single feature")
    assert finding.verdict == "passed"
    assert finding.figure is not None
    assert 0.4 < finding.figure < 0.9


def test_a_number_that_is_the_answer_is_found() -> None:
    frame = pd.DataFrame({"a": RANDOM.normal(size=500), "b": RANDOM.normal(size=500)})
    frame["bought"] = 3 * frame["a"] + 0.01 * RANDOM.normal(size=500)
    model = subject(
        features=[Feature("a", "FP64"), Feature("b", "FP64")],
        labels=(),
        answers=lambda rows: {"predictions": (3 * rows["a"]).tolist()},
    )
    assert found(checked(model, frame), "leakage", "a single feature: a").verdict == "failed"


def test_of_a_score_like_guessing_no_feature_is_said_to_be_a_share() -> None:
    blind = subject(answers=lambda frame: classified(np.random.default_rng(2).random(len(frame))))
    assert found(checked(blind), "leakage", "a single feature").verdict == "inconclusive"


@pytest.mark.parametrize(
    ("name", "values", "suspect"),
    [
        ("customer_id", np.arange(100) * 7, True),
        ("row", np.arange(100), True),
        ("customerId", np.arange(100) * 7, True),
        ("token", [f"{n:x}-{n * n:x}" for n in range(100)], True),
        ("income", RANDOM.normal(size=100), False),
        ("visits", RANDOM.integers(0, 9, 100), False),
        ("salary", RANDOM.permutation(100_000)[:100], False),
        ("complaint", [f"words and more words {n}" for n in range(100)], False),
        ("paid", [True, False] * 50, False),
    ],
)
def test_identifiers_are_known_by_name_and_values(name: str, values: object, suspect: bool) -> None:
    assert is_identifier(pd.Series(values, name=name)) is suspect


@pytest.mark.parametrize(
    ("name", "values", "suspect"),
    [
        ("signed", ["2024-05-17", "2023-01-02"], True),
        ("signed", ["17.5.2024", "2/1/23"], True),
        ("created_at", [1_700_000_000, 1_690_000_000], True),
        ("order_date", [20240517, 20230102], True),
        ("price", [1_700_000_000, 1_690_000_000], False),
        ("answer_time", [12.5, 30.0], False),
        ("region", ["north", "2024"], False),
    ],
)
def test_moments_are_known_by_their_form_or_their_name_and_size(name: str, values: object, suspect: bool) -> None:
    assert is_moment(pd.Series(values, name=name)) is suspect


def test_means_of_the_target_are_found_with_and_without_smoothing_and_others_are_not() -> None:
    group = RANDOM.integers(0, 20, 2_000)
    bought = (RANDOM.random(2_000) < group / 25).astype(float)
    rows = pd.DataFrame({"group": group, "bought": bought}).groupby("group")["bought"]
    mean, count = rows.transform("mean"), rows.transform("count")
    smooth = (count * mean + 10 * bought.mean()) / (count + 10)
    assert is_target_encoded(mean, bought)
    assert is_target_encoded(smooth.astype("float32"), bought)
    assert not is_target_encoded(pd.Series(group), bought)
    assert not is_target_encoded(rows.transform("mean").sample(frac=1.0, random_state=0), bought)
    assert not is_target_encoded(pd.Series(RANDOM.normal(size=2_000)), bought)


def test_rows_that_were_trained_on_are_counted() -> None:
    frame = customers()
    fresh = found(checked(subject(truth), frame, train=customers(seed=9)), "leakage", "twins")
    assert (fresh.verdict, fresh.figure) == ("passed", 0.0)
    half = pd.concat([customers(seed=9), frame[:2_000]])
    assert found(checked(subject(truth), frame, train=half), "leakage", "twins").verdict == "failed"


def test_a_mean_of_the_target_is_found_whatever_a_file_has_made_of_the_labels() -> None:
    """A column with a missing value holds 1.0 where the label is 1."""
    frame, train = customers(), customers(seed=9)
    for rows in (frame, train):
        rows["bought"] = (rows["bought"] == "Yes").astype(float)
    train["told"] = pd.cut(train["age"], 8, labels=False)
    frame["told"] = train["told"].to_numpy()
    train["told"] = train.groupby("told")["bought"].transform("mean")
    model = subject(truth, [*FEATURES, Feature("region", "BYTES", nullable=True)], labels=("0", "1"))
    finding = found(checked(model, frame, train=train), "leakage", "target-encoded columns")
    assert (finding.verdict, finding.figure) == ("failed", 1.0)
    assert finding.said.startswith("told ")
