"""What a person declared about a model's inputs: enforced, versioned as a policy with a revision of its own.

Never inferred: what a sample shows is a baseline (``baseline.py``), and the two must not be confused. ``check_policy``
is called before a policy is stored; the values of requests are checked by the request line.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from keelway.contract.anomaly import MAX_RATE
from keelway.contract.patterns import Pattern
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import InvalidInput
from keelway.types import NUMPY_DTYPES

#: What becomes of a row with a value outside: it is refused, or the value is moved to the nearest end of its range, or
#: the answer says so.
OnViolation = Literal["reject", "clip", "flag"]
#: What becomes of an anomalous row: nothing, a tag in its answer, one in the record only, or it is refused.
AnomalyAction = Literal["off", "tag", "shadow", "reject"]
ProbingAction = Literal["off", "tag", "reject"]

#: Categories: a policy is read by every server, and loaded by each worker.
MAX_CATEGORIES: Final = 10_000


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Limits on one feature, both ends included. ``None`` and empty mean no limit.

    ``minimum`` and ``maximum`` are in the feature's own unit; ``categories`` and ``pattern``, which has to match the
    whole text, are for BYTES features. ``nullable`` false forbids a missing value that the signature would allow.
    A missing value cannot be clipped: it is refused then.
    """

    feature: str
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    on_violation: OnViolation = "reject"
    nullable: bool = True
    pattern: str = ""


class AnomalyRule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What becomes of rows that the detector of the version finds unlike its sample; ``false_positive_rate`` is the
    share of good rows that it may take for such."""

    action: AnomalyAction = "tag"
    false_positive_rate: Annotated[float, Meta(gt=0, le=MAX_RATE)] = 1e-3


class ProbingRule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What becomes of rows of a client that has sent more than ``threshold`` near-duplicates, not equal to each other,
    in about ``window`` seconds. Values are near if they differ by less than ``resolution`` robust deviations."""

    action: ProbingAction = "off"
    threshold: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    window: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    resolution: Annotated[float, Meta(gt=0, le=10)] = 0.5


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is declared for a version, under a revision that grows by one with each change."""

    revision: int = 1
    constraints: tuple[Constraint, ...] = ()
    anomaly: AnomalyRule = AnomalyRule()
    probing: ProbingRule = ProbingRule()


def check_policy(policy: Policy, signature: ModelSignature) -> None:
    """Raise ``InvalidInput`` unless every constraint of ``policy`` can be enforced on a feature of ``signature``.

    Each feature has at most one constraint; a range is for numbers, is finite and holds a value; categories and
    patterns are for text; only what has a range can be clipped. ``FailedPrecondition`` without RE2.
    """
    features = {feature.name: feature for feature in signature.features}
    seen: set[str] = set()
    for constraint in policy.constraints:
        name = constraint.feature
        if name not in features:
            raise InvalidInput(
                f"a constraint names '{name}', which is no feature of the model",
                field=name,
                hint=f"the features are {', '.join(list(features)[:8])}{', ...' if len(features) > 8 else ''}",
            )
        if name in seen:
            raise InvalidInput(
                f"the feature '{name}' has more than one constraint", field=name, hint="put its limits into one"
            )
        seen.add(name)
        _check_range(constraint, features[name])
        _check_text(constraint, features[name])


def _check_range(constraint: Constraint, feature: Feature) -> None:
    name, low, high = feature.name, constraint.minimum, constraint.maximum
    ranged = not (low is None and high is None)
    if ranged and feature.datatype in ("BOOL", "BYTES"):
        raise InvalidInput(
            f"the feature '{name}' is {feature.datatype} and has no minimum or maximum",
            field=name,
            hint="list the allowed categories" if feature.datatype == "BYTES" else "leave the range out",
        )
    if not all(math.isfinite(bound) for bound in (low, high) if bound is not None):
        raise InvalidInput(
            f"a bound of '{name}' is not a finite number", field=name, hint="leave out the end without limit"
        )
    if low is not None and high is not None and low > high:
        raise InvalidInput(f"the minimum of '{name}' is above its maximum", field=name, hint="swap them")
    if ranged and not feature.datatype.startswith("FP") and not _holds_whole_number(low, high, feature.datatype):
        raise InvalidInput(
            f"the feature '{name}' is {feature.datatype}, and none of its whole numbers lies in the range",
            field=name,
            hint="widen the range",
        )
    if constraint.on_violation == "clip" and not ranged:
        raise InvalidInput(
            f"the feature '{name}' has no range to clip its values to", field=name, hint="say reject or flag"
        )


def _holds_whole_number(low: float | None, high: float | None, datatype: str) -> bool:
    information = np.iinfo(NUMPY_DTYPES[datatype])
    least = int(information.min) if low is None else max(math.ceil(low), int(information.min))
    greatest = int(information.max) if high is None else min(math.floor(high), int(information.max))
    return least <= greatest


def _check_text(constraint: Constraint, feature: Feature) -> None:
    name, textual = feature.name, feature.datatype == "BYTES"
    for what, given in (("categories", constraint.categories), ("pattern", constraint.pattern)):
        if given and not textual:
            raise InvalidInput(
                f"the feature '{name}' is {feature.datatype} and has no {what}",
                field=name,
                hint=f"leave the {what} out" if feature.datatype == "BOOL" else "give a minimum and a maximum",
            )
    if len(constraint.categories) > MAX_CATEGORIES:
        raise InvalidInput(f"the feature '{name}' has more than {MAX_CATEGORIES} categories", field=name)
    if constraint.pattern:
        Pattern(constraint.pattern, name)
