"""Whether two versions answer alike. # S2"""

from __future__ import annotations

import numpy as np
import pytest

from keelway.errors import ModelFailed
from keelway.publish.behaviour import TOLERANCE, behaviour_reasons, compare_answers, tolerance_of
from keelway.types import Array

LABELS = np.array(["no", "yes", "no", "yes"], object)
SHARES = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]], np.float32)
OLD = {"label": LABELS, "probabilities": SHARES}
ALL = np.ones(4, bool)


def parts(new: dict[str, Array], accepted: Array = ALL) -> list[tuple[str, str]]:
    found, _ = compare_answers(OLD, new, accepted, TOLERANCE)
    return [(reason.part, reason.rule) for reason in behaviour_reasons(found)]


def test_the_same_answers_are_equivalent() -> None:
    assert parts(dict(OLD)) == [("patch", "equivalent")]
    assert parts({"label": LABELS.astype(str), "probabilities": SHARES + np.float32(1e-7)}) == [("patch", "equivalent")]


def test_another_label_or_number_is_another_behaviour() -> None:
    other = LABELS.copy()
    other[0] = "yes"
    assert parts({"label": other, "probabilities": SHARES}) == [("minor", "predictions_differ")]
    assert parts({"label": LABELS, "probabilities": SHARES + np.float32(1e-3)}) == [("minor", "predictions_differ")]
    near = SHARES.copy()
    near[1:] += np.float32(0.1)
    found, rows = compare_answers(OLD, {"label": other, "probabilities": near}, ALL, TOLERANCE)
    assert (found.rows, found.differ, found.labels, found.beyond) == (4, 4, 1, 3)
    assert (rows.differ.tolist(), rows.labels.tolist()) == ([True] * 4, [True, False, False, False])
    assert found.worst == pytest.approx(0.1 / SHARES.std(), rel=0.4)


def test_a_number_that_is_missing_on_one_side_only_differs() -> None:
    gone = SHARES.copy()
    gone[1, 1] = np.nan
    assert parts({"label": LABELS, "probabilities": gone}) == [("minor", "predictions_differ")]
    both, _ = compare_answers({"p": gone}, {"p": gone}, ALL, TOLERANCE)
    assert both.equivalent


def test_rows_that_are_refused_now_break_their_callers() -> None:
    accepted = np.array([True, False, True, True])
    new = {name: column[accepted] for name, column in OLD.items()}
    assert parts(new, accepted) == [("major", "rows_refused")]


def test_outputs_that_only_one_version_has_are_no_question_of_behaviour() -> None:
    assert parts({"label": LABELS, "score": np.zeros(4)}) == [("patch", "equivalent")]
    with pytest.raises(ModelFailed):
        parts({"score": np.zeros(4)})
    with pytest.raises(ModelFailed):
        parts({"label": LABELS, "probabilities": SHARES[:, :1]})
    with pytest.raises(ModelFailed):
        parts({"label": np.zeros(4)})


def test_no_row_is_no_evidence() -> None:
    empty = {name: column[:0] for name, column in OLD.items()}
    with pytest.raises(ModelFailed):
        compare_answers(OLD, empty, ~ALL, TOLERANCE)


def test_the_tolerance_is_what_both_were_proved_with() -> None:
    assert tolerance_of(1e-4, 1e-4) == 1e-4
    assert tolerance_of(0.5, 1e-5) == 1e-5
    assert tolerance_of(0.0, 0.0) == TOLERANCE
