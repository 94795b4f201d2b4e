"""Policies: only limits that can be enforced on the model's features are accepted."""

from __future__ import annotations

import math

import pytest

from keelway.contract.constraints import Constraint, Policy, check_policy
from keelway.contract.signature import Feature, ModelSignature, pack
from keelway.errors import InvalidInput
from keelway.types import TensorSpec

FEATURES = (Feature("age", "FP32"), Feature("plan", "BYTES"), Feature("owner", "BOOL"), Feature("visits", "INT64"))
SIGNATURE = ModelSignature(FEATURES, pack(FEATURES), (TensorSpec("label", "INT64", (-1,)),))


def check(*constraints: Constraint) -> None:
    check_policy(Policy(constraints=constraints), SIGNATURE)


def test_limits_that_fit_their_features_are_accepted() -> None:
    # V1
    check(
        Constraint("age", minimum=0, maximum=130),
        Constraint("plan", categories=("basic", "gold")),
        Constraint("visits", minimum=3, maximum=3),
    )
    check()


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (Constraint("aeg", minimum=0), "'aeg', which is no feature"),
        (Constraint("age", minimum=2, maximum=1), "minimum of 'age' is above its maximum"),
        (Constraint("age", minimum=math.nan), "not a finite number"),
        (Constraint("age", maximum=math.inf), "not a finite number"),
        (Constraint("age", categories=("1",)), "FP32 and has no categories"),
        (Constraint("visits", categories=("1",)), "INT64 and has no categories"),
        (Constraint("owner", categories=("true",)), "BOOL and has no categories"),
        (Constraint("plan", minimum=0), "BYTES and has no minimum or maximum"),
        (Constraint("owner", maximum=1), "BOOL and has no minimum or maximum"),
    ],
)
def test_a_limit_that_cannot_be_enforced_is_refused(constraint: Constraint, expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected) as caught:
        check(constraint)
    assert caught.value.field == constraint.feature
    assert caught.value.hint


def test_two_constraints_on_one_feature_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'age' has more than one constraint"):
        check(Constraint("age", minimum=0), Constraint("age", maximum=9))
