"""Patterns match whole texts, in linear time, and what could take longer is refused when it is declared. # V1"""

from __future__ import annotations

import sys
import time

import pytest

from keelway.contract.constraints import Constraint, Policy, check_policy
from keelway.contract.patterns import MAX_PATTERN, MAX_TEXT, Pattern
from keelway.contract.signature import Feature, ModelSignature, pack
from keelway.errors import FailedPrecondition, InvalidInput
from keelway.types import TensorSpec

FEATURES = (Feature("plate", "BYTES"), Feature("age", "FP32"))
SIGNATURE = ModelSignature(FEATURES, pack(FEATURES), (TensorSpec("y", "FP32", (-1,)),))


def test_the_whole_text_has_to_match() -> None:
    pattern = Pattern(r"[A-Z]{1,3}-\d+", "plate")
    assert [pattern.matches(text) for text in ("BN-12", "BN-12x", "xBN-12", "", "BN-12\n")] == [True] + [False] * 4
    assert Pattern("ü+", "plate").matches("üüü")


@pytest.mark.parametrize("text", ["(", "(?=a)", r"(a)\1", "a{1000}{1000}", "x" * (MAX_PATTERN + 1), "\ud800"])
def test_what_is_no_pattern_or_could_take_long_is_refused_when_it_is_declared(text: str) -> None:
    with pytest.raises(InvalidInput, match="pattern of 'plate'") as refusal:
        check_policy(Policy(1, (Constraint("plate", pattern=text),)), SIGNATURE)
    assert refusal.value.field == "plate"


def test_a_pattern_is_for_text() -> None:
    with pytest.raises(InvalidInput, match="FP32 and has no pattern"):
        check_policy(Policy(1, (Constraint("age", pattern="x"),)), SIGNATURE)


def test_a_pattern_that_backtracks_elsewhere_takes_no_time_here() -> None:
    pattern = Pattern("(a+)+b", "plate")
    began = time.process_time()
    assert not pattern.matches("a" * (MAX_TEXT - 1))
    assert time.process_time() - began < 1  # backtracking would outlive us


def test_texts_beyond_a_length_and_half_characters_match_nothing() -> None:
    anything = Pattern("(?s).*", "plate")
    assert anything.matches("a" * MAX_TEXT)
    assert not anything.matches("a" * (MAX_TEXT + 1))
    assert not anything.matches("\ud800")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(FailedPrecondition, match="RE2") as refusal:
        Pattern("x", "plate")
    assert refusal.value.hint == "pip install google-re2"
