"""Policies as people write them. # V1"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.constraints import AnomalyRule, Constraint, Policy, ProbingRule, check_policy
from keelway.contract.policy_file import parse_policy, policy_text, proposed
from keelway.contract.signature import Feature, ModelSignature, pack
from keelway.errors import InvalidInput
from keelway.types import TensorSpec

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
BOUNDS = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53).map(float)
RULES = st.builds(
    Constraint,
    TEXTS,
    BOUNDS,
    BOUNDS,
    st.lists(TEXTS, max_size=3).map(tuple),
    st.sampled_from(["reject", "clip", "flag"]),
    st.booleans(),
    TEXTS,
)
POLICIES = st.builds(
    Policy,
    st.just(1),
    st.lists(RULES, max_size=4, unique_by=lambda rule: rule.feature).map(tuple),
    st.builds(AnomalyRule, st.sampled_from(["off", "tag", "shadow", "reject"]), st.floats(0, 0.05, exclude_min=True)),
    st.builds(ProbingRule, st.sampled_from(["off", "tag", "reject"]), st.integers(1, 1000), st.floats(0.5, 3600)),
)


@given(POLICIES)
def test_what_is_written_is_read_back(policy: Policy) -> None:
    assert parse_policy(policy_text(policy)) == policy


def test_it_reads_as_a_person_would_write_it() -> None:
    policy = parse_policy(
        """
        [anomaly]
        action = "shadow"
        false_positive_rate = 0.01

        [features.age]
        minimum = 18
        maximum = 120
        on_violation = "clip"

        [features."home town"]
        categories = ["Bonn", "Rom"]
        nullable = false
        """
    )
    assert policy == Policy(
        1,
        (
            Constraint("age", 18, 120, on_violation="clip"),
            Constraint("home town", categories=("Bonn", "Rom"), nullable=False),
        ),
        AnomalyRule("shadow", 0.01),
    )
    assert '[features."home town"]' in policy_text(policy)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[features.age", "not valid TOML"),
        ("[features.age]\n[features.age]", "not valid TOML"),
        ("[features.age]\nminimum = 'low'", r"Expected `float.*features\.age\.minimum"),
        ("[features.age]\nminimun = 3", "unknown field `minimun`"),
        ("[feature.age]\nminimum = 3", "unknown field `feature`"),
        ("[features.age]\non_violation = 'drop'", "Invalid enum value"),
        ("[anomaly]\nfalse_positive_rate = 0.5", "false_positive_rate"),
        ("[anomaly]\nfalse_positive_rate = 0", "false_positive_rate"),
        ("[probing]\nthreshold = 0", "threshold"),
        ("features = 3", "Expected"),
        ("a = " + "[" * 5000, "not valid TOML"),
    ],
)
def test_a_slip_is_refused_in_one_line_with_a_hint(text: str, expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected) as refusal:
        parse_policy(text)
    assert refusal.value.hint
    assert "\n" not in refusal.value.message


# Proposals

KINDS = (Feature("age", "FP32"), Feature("income", "FP32", True), Feature("town", "BYTES"), Feature("n", "INT64"))


def signature(*features: Feature) -> ModelSignature:
    return ModelSignature(features, pack(features), (TensorSpec("y", "FP32", (-1,)),))


def test_a_proposal_widens_what_was_seen_and_flags() -> None:
    baseline = Baseline(
        100,
        (
            ObservedFeature("age", 100, minimum=18, maximum=98),
            ObservedFeature("income", 90, missing=10, minimum=-1234.5, maximum=98_765),
            ObservedFeature("town", 100, categories={"Rom": 60, "Bonn": 40}),
            ObservedFeature("n", 100, minimum=2, maximum=7),
        ),
    )
    made = proposed(signature(*KINDS), baseline, 0.1)
    assert made.constraints == (
        Constraint("age", 10, 106, on_violation="flag"),
        Constraint("income", -11_300, 109_000, on_violation="flag"),
        Constraint("town", categories=("Bonn", "Rom"), on_violation="flag"),
        Constraint("n", 1.5, 7.5, on_violation="flag"),
    )


def test_what_was_never_negative_is_not_proposed_to_be() -> None:
    baseline = Baseline(9, (ObservedFeature("age", 9, minimum=1, maximum=100),))
    (rule,) = proposed(signature(KINDS[0]), baseline, 0.5).constraints
    assert (rule.minimum, rule.maximum) == (0, 150)


def test_a_long_list_is_no_proposal_and_a_gap_that_never_was_is_one() -> None:
    many = dict.fromkeys(map(str, range(51)), 1)
    features = (Feature("town", "BYTES"), Feature("code", "BYTES", True))
    baseline = Baseline(
        51, (ObservedFeature("town", 51, categories=many), ObservedFeature("code", 51, categories=many))
    )
    assert proposed(signature(*features), baseline, 0.1).constraints == (
        Constraint("code", nullable=False, on_violation="flag"),
    )


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 10),
)
def test_a_proposal_holds_all_that_was_seen_and_can_be_declared(one: float, other: float, margin: float) -> None:
    low, high = min(one, other), max(one, other)
    baseline = Baseline(2, (ObservedFeature("x", 2, minimum=low, maximum=high),))
    model = signature(Feature("x", "FP64"))
    policy = proposed(model, baseline, margin)
    check_policy(policy, model)
    for rule in policy.constraints:
        assert rule.minimum is None or rule.minimum <= low
        assert rule.maximum is None or rule.maximum >= high
        assert not any(math.isnan(bound) for bound in (rule.minimum, rule.maximum) if bound is not None)
    assert parse_policy(policy_text(policy)) == policy
