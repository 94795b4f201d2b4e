"""The judges of a soak: each kind of harm is seen, and what is no harm is not called so."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.soak import report
from tests.soak.judging import LIMIT, MARGIN, NEEDED, Outcome, Tally, Told, judge
from tests.soak.memory import LEAST_LIFE, MOST_MIB, Sample, flatness
from tests.soak.models import BROKEN, REFUSED, Pool, Question, Subject

from keelway.types import Array

ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)
LABELS, CHANCES = np.arange(10, dtype=np.int64), np.linspace(0, 1, 20, dtype=np.float32).reshape(10, 2)
ANSWERS: dict[str, dict[str, Array]] = {
    "1.0.0": {"label": LABELS, "probabilities": CHANCES},
    "2.0.0": {"label": LABELS + 1, "probabilities": CHANCES + np.float32(0.5)},
}
SUBJECT = Subject("m", "input", "FP32", [Pool(ROWS, ANSWERS)], "label")
QUESTION = Question(SUBJECT, SUBJECT.pools[0], [3, 1, 7])


def told(version: str = "1.0.0", places: tuple[int, ...] = (3, 1, 7), of: str = "", **more: Any) -> Told:
    """A right answer; ``of`` another version than it says."""
    outputs = {name: values[list(places)] for name, values in ANSWERS[of or version].items()}
    return Told("OK", version, {**outputs, **more})


def outcome(answer: Told, question: Question = QUESTION, waited: float = 0.1, struck: bool = False) -> Outcome:
    return judge(question, answer, waited, struck)[0]


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_the_answer_of_the_version_that_is_named_is_right(version: str) -> None:
    assert outcome(told(version)) is Outcome.RIGHT


@pytest.mark.parametrize(
    "answer",
    [
        told("1.0.0", of="2.0.0"),
        told("2.0.0", of="1.0.0"),
        replace(told(), version="3.0.0"),
        told(places=(1, 3, 7)),
        told(places=(3, 1, 8)),
        told(places=(3, 1)),
        told(places=(3, 1, 7, 7)),
        told(probabilities=CHANCES[[3, 1, 7]] + np.array([[0, 0], [0, 0], [0, 1e-4]])),
        told(probabilities=np.full((3, 2), np.nan, np.float32)),
        told(label=np.array([3, 1, 6])),
        told(more=LABELS),
        Told("OK", "1.0.0", {"label": LABELS[[3, 1, 7]]}),
        Told("OK", "1.0.0"),
    ],
    ids=[
        "of another version", "of the older version", "of no version", "rows in another order", "a row of another",
        "a row too few", "a row too many", "one number a little off", "not a number", "another label",
        "an output too many", "an output too few", "no output",
    ],
)  # fmt: skip
def test_any_other_answer_is_wrong(answer: Told) -> None:
    assert outcome(answer) is Outcome.WRONG
    assert judge(QUESTION, answer, 0.1, struck=True)[0] is Outcome.WRONG


@pytest.mark.parametrize(("guilty", "code"), [(REFUSED, "INVALID_ARGUMENT"), (BROKEN, "INTERNAL")])
def test_only_a_guilty_request_may_be_refused_for_its_rows(guilty: float, code: str) -> None:
    question = replace(QUESTION, guilty=guilty, spoilt=1)
    assert question.rows[1, 0] == guilty
    assert (question.pool.rows == ROWS).all()
    assert outcome(Told(code), question) is Outcome.GUILTY
    assert outcome(Told(code)) is Outcome.UNEXPECTED
    assert outcome(told(), question) is Outcome.WRONG
    other = {"INTERNAL": "INVALID_ARGUMENT", "INVALID_ARGUMENT": "INTERNAL"}[code]
    assert outcome(Told(other), question) is Outcome.UNEXPECTED


def test_a_request_that_is_not_answered_in_time_hangs() -> None:
    assert outcome(Told("SILENT"), waited=LIMIT + MARGIN) is Outcome.HUNG
    assert outcome(Told("SILENT"), waited=LIMIT + MARGIN, struck=True) is Outcome.HUNG
    short = replace(QUESTION, deadline=0.02)
    for answer in (told(), Told("DEADLINE_EXCEEDED"), Told("UNAVAILABLE")):
        assert outcome(answer, short, waited=MARGIN + 0.1) is Outcome.HUNG
        assert outcome(answer, waited=LIMIT + MARGIN + 0.1) is Outcome.HUNG


def test_a_deadline_may_pass_only_where_there_was_one() -> None:
    assert outcome(Told("DEADLINE_EXCEEDED"), replace(QUESTION, deadline=0.02)) is Outcome.REFUSED
    assert outcome(Told("DEADLINE_EXCEEDED"), waited=LIMIT) is Outcome.HUNG
    assert outcome(Told("DEADLINE_EXCEEDED"), waited=LIMIT / 2) is Outcome.UNEXPECTED


def test_a_connection_may_break_only_where_a_worker_was_killed() -> None:
    assert outcome(Told("BROKEN"), struck=True) is Outcome.LOST
    assert outcome(Told("BROKEN")) is Outcome.UNEXPECTED


@pytest.mark.parametrize("code", ["UNAVAILABLE_FOREVER", "HTTP_404", "HTTP_502", "UNREADABLE", "UNKNOWN", "TOO_SLOW"])
def test_an_answer_that_nothing_explains_is_unexpected(code: str) -> None:
    assert outcome(Told(code), replace(QUESTION, deadline=0.02), struck=True) is Outcome.UNEXPECTED


# Memory


def life(seconds: int, grown: Any, noise: float = 1.0, seed: int = 1) -> list[Sample]:
    """A process of 300 MiB that has grown by ``grown`` of its age in seconds."""
    random = Random(seed)
    sizes = [300 + grown(age) + random.gauss(0, noise) for age in range(seconds)]
    return [Sample(50 + age, size, size / 2) for age, size in enumerate(sizes)]


def warming_up(age: int) -> float:
    return min(age, 60) * 0.5


@pytest.mark.parametrize("seed", range(20))
def test_what_fills_its_caches_at_first_and_then_stays_is_flat(seed: int) -> None:
    found = flatness(life(600, warming_up, seed=seed))
    assert found.verdict == "flat"
    assert found.low <= found.slope <= found.high
    assert found.start < 310 < found.end


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mib_a_minute", [2.0, 4.0, 20.0])
def test_a_leak_is_growth(mib_a_minute: float, seed: int) -> None:
    found = flatness(life(600, lambda age: warming_up(age) + age * mib_a_minute / 60, seed=seed))
    assert found.verdict == "growing"
    assert found.slope == pytest.approx(mib_a_minute, rel=0.2)
    assert found.by_slope == pytest.approx(mib_a_minute * 400 / 60, rel=0.2)
    assert found.since_minute == pytest.approx(mib_a_minute * 8.2, rel=0.25)


def test_a_leap_that_stays_is_growth() -> None:
    assert flatness(life(600, lambda age: 30.0 * (age > 400))).verdict == "growing"


def test_what_swings_too_widely_to_tell_is_not_called_flat() -> None:
    assert flatness(life(600, lambda age: 40.0 * ((age // 50) % 2))).verdict != "flat"


def test_a_slow_growth_below_the_limit_is_flat() -> None:
    assert flatness(life(600, lambda age: age * 0.5 / 60)).verdict == "flat"


def test_of_a_short_life_nothing_is_said() -> None:
    assert flatness(life(int(LEAST_LIFE) - 1, lambda age: float(age))).verdict == "short"
    assert flatness(life(3, float)).verdict == "short"
    with pytest.raises(ValueError, match="no samples"):
        flatness([])


# The verdict


def tally(*outcomes: Outcome) -> Tally:
    found = Tally()
    for one in (*NEEDED, *outcomes):
        found.note("workers json m", one, "why", Told("OK", "1.0.0"), 0.5)
    return found


FLAT = {"role": "single", "pid": 7, "proportional": 1.0, "flatness": flatness(life(600, warming_up))}
LEAK = {"role": "worker", "pid": 8, "proportional": 1.0, "flatness": flatness(life(600, float))}


def test_a_soak_without_harm_passes() -> None:
    assert report.failures(tally(Outcome.LOST), [FLAT], {"fault": []}) == []


@pytest.mark.parametrize("harm", [Outcome.WRONG, Outcome.HUNG, Outcome.UNEXPECTED])
def test_one_harm_among_all_answers_fails_it(harm: Outcome) -> None:
    found = tally(*[Outcome.RIGHT] * 1000, harm)
    assert report.failures(found, [FLAT], {}) == [f"1 answers {harm}"]
    assert found.harm() == 1
    (words,) = found.harms
    assert words.endswith(f" {harm}: workers json m: why")


def test_memory_that_grows_fails_it() -> None:
    assert report.failures(tally(), [FLAT, LEAK], {}) == ["memory of worker 8 is growing"]


def test_a_soak_that_has_shown_nothing_fails() -> None:
    assert report.failures(Tally(), [FLAT], {}) == [f"never happened: {outcome}" for outcome in NEEDED]
    assert tally().unanswered(["workers json m", "single grpc m"]) == ["single grpc m"]
    assert report.failures(tally(), [FLAT], {"fault": ["worker killed: not felt"]}) == [
        "fault: worker killed: not felt"
    ]


def test_the_report_says_what_was_found_and_by_what_measure() -> None:
    failed = report.failures(tally(Outcome.WRONG), [FLAT, LEAK], {})
    more = {
        "faults": {"worker killed": 3},
        "logged": {"single: oh": 2},
        "events": ["12:00:00 worker killed"],
        "counted": {"single": {"runs": 5}},
    }
    page = report.text(report.document(11, 600.0, tally(Outcome.WRONG), [FLAT, LEAK], failed, more))
    for part in (
        "seed 11, 600 s",
        "1 wrong",
        "3 worker killed",
        "events: 12:00:00 worker killed",
        f"below {MOST_MIB:g} MiB or 3%",
        "logged 2 ×: single: oh",
        " wrong: workers json m: why",
        "FAILED: memory of worker 8 is growing",
    ):
        assert part in page
    assert page.endswith("failed\n")
    assert [line.rpartition("   ")[2] for line in page.splitlines() if "(+" in line or "(-" in line] == [
        "flat",
        "growing",
    ]
