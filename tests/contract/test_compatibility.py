"""Which part of the version a change asks for: every rule both ways, the breaking one and the way back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keelway.contract.anomaly import Detector
from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.compatibility import (
    Promise,
    Reason,
    compare,
    following,
    is_lossless,
    needed,
    says_enough,
)
from keelway.contract.constraints import AnomalyRule, Constraint, Policy, ProbingRule
from keelway.contract.semver import Part, Version
from keelway.contract.signature import Feature, ModelSignature, pack, validate_signature
from keelway.types import NUMPY_DTYPES, TensorSpec

AGE, INCOME = Feature("age", "FP32"), Feature("income", "FP32", nullable=True)
LABEL, SHARES = TensorSpec("label", "BYTES", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))


def signature(*features: Feature, outputs: tuple[TensorSpec, ...] = (LABEL, SHARES), **more: Any) -> ModelSignature:
    fields: dict[str, Any] = {
        "task": "classification",
        "labels": ("no", "yes"),
        "label_output": "label",
        "probability_output": "probabilities",
        **more,
    }
    made = ModelSignature(features or (AGE, INCOME), pack(features or (AGE, INCOME)), outputs, **fields)
    validate_signature(made)
    return made


def with_policy(*constraints: Constraint, **more: Any) -> Promise:
    return Promise(
        signature(Feature("age", "FP32", nullable=True), Feature("city", "BYTES")), Policy(1, constraints, **more)
    )


def rules(old: Promise, new: Promise) -> set[tuple[Part, str]]:
    return {(reason.part, reason.rule) for reason in compare(old, new)}


CASES = [
    # a required input, added and removed
    (signature(), signature(AGE, INCOME, Feature("debt", "FP32")), "major required_input_added", "major input_removed"),
    # an optional one at the end, added and removed
    (signature(), signature(AGE, INCOME, Feature("debt", "FP32", True)), "minor optional_input_added",
     "major input_removed"),
    (signature(), signature(Feature("years", "FP32"), INCOME), "major input_renamed", "major input_renamed"),
    (signature(), signature(Feature("age", "BOOL"), INCOME), "major input_retyped", "major input_retyped"),
    (signature(AGE), signature(Feature("age", "FP64")), "minor input_widened", "major input_narrowed"),
    (signature(Feature("n", "INT32")), signature(Feature("n", "FP64")), "minor input_widened", "major input_narrowed"),
    (signature(Feature("n", "INT64")), signature(Feature("n", "FP64")), "major input_retyped", "major input_retyped"),
    (signature(), signature(AGE, replace(INCOME, nullable=False)), "major nullable_to_required",
     "minor required_to_nullable"),
    (signature(), signature(INCOME, AGE), "major positional_order", "major positional_order"),
    (signature(AGE), signature(INCOME, AGE), "major positional_order", "major input_removed"),
    (signature(Feature("x", "FP32", shape=(4,))), signature(Feature("x", "FP32", shape=(-1,))), "minor input_reshaped",
     "major input_reshaped"),
    (signature(Feature("x", "FP32", shape=(4,))), signature(Feature("x", "FP32", shape=(5,))), "major input_reshaped",
     "major input_reshaped"),
    # an output, added and removed
    (signature(), signature(outputs=(LABEL, SHARES, TensorSpec("score", "FP32", (-1,)))), "minor output_added",
     "major output_removed"),
    (signature(), signature(outputs=(LABEL, replace(SHARES, name="shares")),
               probability_output="shares"), "major output_renamed", "major output_renamed"),
    (signature(), signature(outputs=(LABEL, replace(SHARES, datatype="FP64"))), "major output_retyped",
     "major output_retyped"),
    (signature(), signature(outputs=(LABEL, replace(SHARES, shape=(-1, -1)))), "major output_reshaped",
     "minor output_reshaped"),
    (signature(), signature(outputs=(SHARES, LABEL)), "major output_order", "major output_order"),
    # classes
    (signature(), signature(labels=("no", "yes", "maybe")), "major class_added", "major class_removed"),
    (signature(), signature(labels=("yes", "no")), "major class_order", "major class_order"),
    (signature(labels=(0, 1)), signature(labels=(False, True)), "major class_added", "major class_removed"),
    (signature(labels=()), signature(), "minor classes_named", "major classes_unnamed"),
    # what an answer means
    (signature(), signature(task="regression"), "major task_changed", "major task_changed"),
    (signature(task="other"), signature(), "minor task_changed", "major task_changed"),
    (signature(), signature(label_output=""), "major prediction_changed", "major prediction_changed"),
    (signature(probability_output=""), signature(), "minor probabilities_added", "major probabilities_changed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "there", "back"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_change_of_the_signature_and_the_way_back(
    old: ModelSignature, new: ModelSignature, there: str, back: str
) -> None:  # S2
    assert tuple(there.split()) in rules(Promise(old), Promise(new))
    assert needed(compare(Promise(old), Promise(new))) == there.split()[0]
    assert tuple(back.split()) in rules(Promise(new), Promise(old))
    assert needed(compare(Promise(new), Promise(old))) == back.split()[0]


NONE = with_policy()
DECLARED = [
    (with_policy(Constraint("age", 0, 120)), with_policy(Constraint("age", 18, 120)), "major range_narrowed",
     "minor range_widened"),
    (with_policy(Constraint("age", 0, 120)), with_policy(Constraint("age", 0, 90)), "major range_narrowed",
     "minor range_widened"),
    (NONE, with_policy(Constraint("age", maximum=90, on_violation="clip")), "major range_narrowed",
     "minor range_widened"),
    (with_policy(Constraint("city", categories=("a", "b"))), with_policy(Constraint("city", categories=("a",))),
     "major categories_narrowed", "minor categories_widened"),
    (NONE, with_policy(Constraint("city", categories=("a",))), "major categories_narrowed",
     "minor categories_widened"),
    (NONE, with_policy(Constraint("city", pattern="[a-z]+")), "major pattern_changed", "minor pattern_removed"),
    (with_policy(Constraint("city", pattern="[a-z]+")), with_policy(Constraint("city", pattern="[a-y]+")),
     "major pattern_changed", "major pattern_changed"),
    (NONE, with_policy(Constraint("age", nullable=False)), "major nullable_to_required",
     "minor required_to_nullable"),
    (with_policy(Constraint("age", 0, 90, on_violation="clip")), with_policy(Constraint("age", 0, 90)),
     "major violation_refused", "minor constraint_changed"),
    # what is flagged is answered as ever
    (NONE, with_policy(Constraint("age", 0, 90, on_violation="flag")), "minor constraint_changed",
     "minor constraint_changed"),
    (with_policy(Constraint("age", 0, 90, on_violation="flag")), with_policy(Constraint("age", 0, 90)),
     "major range_narrowed", "minor range_widened"),
    (NONE, with_policy(anomaly=AnomalyRule("reject")), "major rows_refused", "minor rule_changed"),
    (NONE, with_policy(anomaly=AnomalyRule("off")), "minor rule_changed", "minor rule_changed"),
    (NONE, with_policy(probing=ProbingRule("reject")), "major rows_refused", "minor rule_changed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "there", "back"), DECLARED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_change_of_what_is_declared_and_the_way_back(old: Promise, new: Promise, there: str, back: str) -> None:  # S2
    assert rules(old, new) == {tuple(there.split())}
    assert rules(new, old) == {tuple(back.split())}


def test_a_constraint_on_an_input_that_is_gone_says_nothing_more() -> None:
    old = Promise(signature(AGE, INCOME), Policy(1, (Constraint("income", 0, 9),)))
    assert rules(old, Promise(signature(AGE))) == {("major", "input_removed")}


def test_what_a_sample_showed_never_counts() -> None:  # S2
    # Nothing observed can be given to the comparison at all.
    observed = (Baseline, Detector, ObservedFeature)
    assert not any(name in str(Promise.__annotations__.values()) for name in map(str, observed))
    assert compare(Promise(signature()), Promise(signature())) == ()


def test_the_revision_of_a_policy_is_no_difference() -> None:
    rule = Constraint("age", 0, 9)
    assert compare(Promise(signature(), Policy(1, (rule,))), Promise(signature(), Policy(7, (rule,)))) == ()


def test_tensors_that_change_names_break_whoever_sends_tensors() -> None:
    # An optional text beside numbers makes two packed tensors of one.
    found = rules(Promise(signature(AGE)), Promise(signature(AGE, Feature("city", "BYTES", nullable=True))))
    assert found == {("minor", "optional_input_added"), ("major", "tensor_removed"), ("major", "tensor_added")}


def test_a_batch_axis_breaks_both_ways() -> None:
    many = ModelSignature((Feature("x", "FP32"),), (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
    one = ModelSignature((Feature("x", "FP32"),), (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),))
    assert ("major", "batch_axis") in rules(Promise(many), Promise(one))
    assert ("major", "batch_axis") in rules(Promise(one), Promise(many))


def test_own_tensors_may_be_packed_since_columns_may_be_sent_one_by_one() -> None:
    features = (AGE, Feature("debt", "FP32"))
    own = tuple(TensorSpec(feature.name, "FP32", (-1,)) for feature in features)
    output = (TensorSpec("y", "FP32", (-1,)),)
    assert (
        compare(
            Promise(ModelSignature(features, own, output)), Promise(ModelSignature(features, pack(features), output))
        )
        == ()
    )


def test_the_gravest_reason_comes_first() -> None:
    new = signature(AGE, INCOME, Feature("debt", "FP32", nullable=True), labels=("yes", "no"))
    found = compare(Promise(signature()), Promise(new))
    assert [reason.part for reason in found] == ["major", "minor"]
    assert found[0] == Reason(
        "major", "class_order", "", "the classes have another order: probabilities would be misread"
    )


@pytest.mark.parametrize(
    ("old", "new", "lossless"),
    [
        ("INT32", "INT64", True), ("INT64", "INT32", False), ("UINT8", "INT16", True), ("INT8", "UINT8", False),
        ("INT32", "FP64", True), ("INT64", "FP64", False), ("UINT64", "FP64", False), ("INT32", "FP32", False),
        ("INT16", "FP32", True), ("INT8", "FP16", True), ("INT16", "FP16", False), ("FP32", "FP64", True),
        ("FP64", "FP32", False), ("FP32", "INT64", False), ("BOOL", "UINT8", False), ("UINT8", "BOOL", False),
        ("BYTES", "FP64", False), ("FP64", "BYTES", False),
    ],
)  # fmt: skip
def test_a_wider_datatype_holds_every_value(old: str, new: str, lossless: bool) -> None:  # S2
    assert is_lossless(old, new) == lossless


@given(st.sampled_from(["INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64"]),
       st.sampled_from(["INT16", "INT32", "INT64", "UINT64", "FP16", "FP32", "FP64"]), st.data())  # fmt: skip
def test_no_whole_number_is_lost_where_none_may_be(old: str, new: str, data: st.DataObject) -> None:
    import numpy as np

    if is_lossless(old, new):
        limits = np.iinfo(NUMPY_DTYPES[old])
        value = data.draw(st.integers(int(limits.min), int(limits.max)))
        assert int(np.array(value, NUMPY_DTYPES[old]).astype(NUMPY_DTYPES[new])) == value


@pytest.mark.parametrize(
    ("base", "part", "expected"),
    [("1.4.2", "major", "2.0.0"), ("1.4.2", "minor", "1.5.0"), ("1.4.2", "patch", "1.4.3"),
     ("0.4.2", "major", "0.5.0"), ("0.4.2", "minor", "0.4.3"), ("0.4.2", "patch", "0.4.3")],
)  # fmt: skip
def test_the_version_that_follows_says_the_part(base: str, part: Part, expected: str) -> None:  # S2
    assert str(following(Version.parse(base), part)) == expected


@pytest.mark.parametrize(
    ("base", "declared", "part", "enough"),
    [
        ("1.4.2", "2.0.0", "major", True), ("1.4.2", "2.0.0-rc.1", "major", True), ("1.4.2", "1.9.0", "major", False),
        ("1.4.2", "1.5.0", "minor", True), ("1.4.2", "1.4.3", "minor", False), ("1.4.2", "1.4.3", "patch", True),
        ("1.4.2", "3.1.0", "patch", True), ("0.4.2", "0.4.3", "major", False), ("0.4.2", "1.0.0", "major", True),
        ("1.4.2", "1.5.0-rc.1", "major", False),
    ],
)  # fmt: skip
def test_a_version_says_enough_or_not(base: str, declared: str, part: Part, enough: bool) -> None:  # S2
    assert says_enough(Version.parse(base), Version.parse(declared), part) == enough
