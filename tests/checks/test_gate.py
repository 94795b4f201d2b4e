# Y1: a good version passes, and each kind of bad one fails for its own reason; both errors are as rare as stated
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.checks.subjects import checked, customers, failures, found, noisy, on_log_odds, subject, truth

from keelway.checks import champion, metrics
from keelway.checks.asking import Subject
from keelway.checks.case import Case
from keelway.checks.findings import Finding
from keelway.checks.gate import decide, outcome
from keelway.checks.plan import Plan, parse_plan
from keelway.checks.scoring import Bools
from keelway.contract.signature import Feature
from keelway.errors import InvalidInput

SLICED = """
[metrics]
roc_auc = 0.65

[champion]
margin = 0.03

[slices]
columns = ["region"]

[calibration]
ratio = [0.85, 1.18]
slope = [0.8, 1.25]
"""


def test_a_good_version_passes_against_its_like() -> None:
    report = checked(subject(truth, version="2.0.0"), plan=SLICED, old=subject(noisy(0.3)))
    assert failures(report) == set()
    assert report.outcome == "passed"
    assert (report.version, report.against, report.rows) == ("2.0.0", "1.0.0", 4_000)


@pytest.mark.parametrize("seed", range(3))
def test_a_worse_version_fails_against_the_champion(seed: int) -> None:
    report = checked(subject(noisy(1.5, seed=seed), version="2.0.0"), plan="", old=subject(truth))
    assert report.outcome == "failed"
    assert found(report, "champion", "roc_auc").verdict == "failed"


def test_a_version_below_a_floor_fails_without_a_champion() -> None:
    report = checked(subject(noisy(3.0)), plan="[metrics]\nroc_auc = 0.7\n")
    assert found(report, "metrics", "roc_auc", number=1).verdict == "failed"


def test_a_miscalibrated_version_fails_although_it_ranks_as_well() -> None:
    report = checked(subject(on_log_odds(lambda odds: odds + 1.2), version="2.0.0"), old=subject(truth))
    assert failures(report) == {"calibration"}
    assert found(report, "champion", "roc_auc").verdict == "passed"


def test_an_overconfident_version_fails_by_its_slope() -> None:
    report = checked(subject(on_log_odds(lambda odds: 3 * odds)))
    assert found(report, "calibration", "slope").verdict == "failed"


def test_a_version_that_is_broken_in_one_slice_fails_there_alone() -> None:
    broken = noisy(4.0, where=lambda frame: frame["region"] == "west")
    report = checked(subject(broken, version="2.0.0"), plan="[slices]\ncolumns = ['region']\n", old=subject(truth))
    sliced = {f.slice: f.verdict for f in report.findings if f.family == "champion" and f.slice}
    assert sliced["region=west"] == "failed"
    assert "failed" not in {verdict for name, verdict in sliced.items() if name != "region=west"}


def test_too_few_rows_are_no_pass_and_no_failure() -> None:
    report = checked(subject(truth), customers(60), "[metrics]\nroc_auc = 0.75\n")
    assert report.outcome == "inconclusive"
    assert "failed" not in {finding.verdict for finding in report.findings}
    few = checked(subject(truth), customers(20))
    assert few.outcome == "inconclusive"
    assert "too few rows" in found(few, "metrics", "roc_auc").said


def test_the_same_check_says_the_same_again() -> None:
    frame = customers(500)
    assert checked(subject(noisy(0.5)), frame) == checked(subject(noisy(0.5)), frame)


def test_without_a_truth_what_needs_none_is_checked_and_the_rest_is_said_to_be_left_out() -> None:
    report = checked(subject(truth), target="")
    assert report.outcome == "passed"
    assert found(report, "metrics").verdict == "skipped"
    assert "--target" in found(report, "metrics").said


def _tested(p_value: float, proof: bool = True) -> Finding:
    return Finding("metrics", "x", "inconclusive", p_value=p_value, proof=proof)


def test_among_many_tests_one_small_p_value_is_no_failure() -> None:
    assert outcome(decide([_tested(0.03)], 0.05)) == "failed"
    assert outcome(decide([_tested(0.03), *[_tested(0.5) for _ in range(9)]], 0.05)) == "inconclusive"


def test_what_need_not_be_proved_stops_only_by_failing() -> None:
    assert outcome([_tested(0.5, proof=False)]) == "passed"
    assert outcome(decide([_tested(0.0001, proof=False)], 0.05)) == "failed"


def test_a_version_that_keeps_every_bound_only_just_fails_as_seldom_as_stated() -> None:
    """Every true value lies *on* its bound, over a whole and its slices: the most that a good version can be blamed."""
    random = np.random.default_rng(0)
    wrong, rounds = 0, 100
    for _ in range(rounds):
        frame = pd.DataFrame({"score": random.normal(size=600), "kind": random.choice(list("abcdef"), 600)})
        happened = random.random(600) < 0.3
        frame["score"] += happened  # two normal distributions, a standard deviation apart: an area of 0.7602
        wrong += on_the_bound(frame, happened) == "failed"
    assert wrong / rounds <= 0.05 + 3 * (0.05 * 0.95 / rounds) ** 0.5


def on_the_bound(frame: pd.DataFrame, happened: Bools) -> str:
    plan = parse_plan(
        "[metrics]\nroc_auc = 0.7602\n[slices]\ncolumns = ['kind']\nmin_rows = 20\n[slices.metrics]\nroc_auc = 0.7602\n"
    )
    scored = subject(lambda rows: 1 / (1 + np.exp(-rows["score"].to_numpy())), [Feature("score", "FP64")])
    case = Case(scored, frame.assign(bought=np.where(happened, "Yes", "No")), plan, "bought")
    return outcome(decide(list(metrics.check(case)), plan.alpha))


def test_a_version_that_breaks_a_bound_only_just_passes_as_seldom_as_stated() -> None:
    """Non-inferiority at the margin: the new version loses exactly what is not allowed any more."""
    random = np.random.default_rng(0)
    passed, rounds = 0, 100
    for _ in range(rounds):
        right = random.random((2, 800)) < [[0.80], [0.82]]  # 0.02 apart, the margin
        happened = random.random(800) < 0.5
        said = np.where(right, happened, ~happened)
        frame = pd.DataFrame({"new": said[0] * 1.0, "old": said[1] * 1.0, "bought": np.where(happened, "Yes", "No")})
        case = Case(labelled("new", "2.0.0"), frame, Plan(), "bought", champion=labelled("old", "1.0.0"))
        passed += outcome(list(champion.check(case))) == "passed"
    assert passed / rounds <= 0.05 + 3 * (0.05 * 0.95 / rounds) ** 0.5


def labelled(column: str, version: str) -> Subject:
    """A version without probabilities that says Yes where ``column`` is 1."""

    def answers(frame: pd.DataFrame) -> dict[str, object]:
        return {"predictions": ["Yes" if value else "No" for value in frame[column]], "labels": ["No", "Yes"]}

    return subject(features=[Feature(column, "FP64")], version=version, answers=answers)


def test_the_event_is_one_class_in_whatever_order_the_other_version_has_them() -> None:
    perfect = subject(lambda frame: 1 - truth(frame), labels=("Yes", "No"), version="1.0.0")
    report = checked(subject(noisy(3.0), version="2.0.0"), old=perfect)
    difference = found(report, "champion", "roc_auc, difference")
    assert difference.verdict == "failed"
    assert (difference.figure or 0.0) < 0
    same = checked(subject(version="2.0.0"), old=perfect)
    assert found(same, "champion", "roc_auc, difference").figure == pytest.approx(0.0, abs=1e-9)


def test_another_version_without_the_event_is_not_compared() -> None:
    other = subject(labels=("No", "Maybe"), version="1.0.0")
    with pytest.raises(InvalidInput, match="not of the other version"):
        checked(subject(version="2.0.0"), old=other)


@pytest.mark.parametrize(
    "plan",
    [
        "[metrics]\nroc_auc = 0.6",
        "[slices]\ncolumns = ['region']\nmetrics = {roc_auc = 0.6}",
        "[calibration]",
    ],
)
def test_what_was_asked_for_is_not_passed_without_a_truth(plan: str) -> None:
    assert checked(subject(), plan=plan, target="").outcome == "inconclusive"


def test_a_champion_that_nothing_was_compared_with_is_not_beaten() -> None:
    assert checked(subject(version="2.0.0"), old=subject(noisy(1.0)), target="").outcome == "inconclusive"
    assert checked(subject(), target="").outcome == "passed", "nothing but the contract was asked for"
