"""What a person declared about a model's inputs: enforced, versioned as a policy with a revision of its own.

Never inferred: what a sample shows is a baseline (``baseline.py``), and the two must not be confused. ``check_policy``
is called before a policy is stored; the values of requests are checked by the request line.
"""

from __future__ import annotations

import math

import msgspec

from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import InvalidInput


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Limits on one feature, both ends included. ``None`` and empty mean no limit.

    ``minimum`` and ``maximum`` are in the feature's own unit; ``categories`` are compared as text for BYTES features.
    """

    feature: str
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """The declared constraints of a version, under a revision that grows by one with each change."""

    revision: int = 1
    constraints: tuple[Constraint, ...] = ()


def check_policy(policy: Policy, signature: ModelSignature) -> None:
    """Raise ``InvalidInput`` unless every constraint of ``policy`` can be enforced on a feature of ``signature``.

    Each feature has at most one constraint; a range is for numbers, is finite and not empty; categories are for text.
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
        _check_constraint(constraint, features[name])


def _check_constraint(constraint: Constraint, feature: Feature) -> None:
    name, low, high = feature.name, constraint.minimum, constraint.maximum
    numeric = feature.datatype not in ("BOOL", "BYTES")
    if not numeric and not (low is None and high is None):
        raise InvalidInput(
            f"the feature '{name}' is {feature.datatype} and has no minimum or maximum",
            field=name,
            hint="list the allowed categories" if feature.datatype == "BYTES" else "leave the range out",
        )
    if constraint.categories and feature.datatype != "BYTES":
        raise InvalidInput(
            f"the feature '{name}' is {feature.datatype} and has no categories",
            field=name,
            hint="give a minimum and a maximum" if numeric else "leave the categories out",
        )
    if not all(math.isfinite(bound) for bound in (low, high) if bound is not None):
        raise InvalidInput(
            f"a bound of '{name}' is not a finite number", field=name, hint="leave out the end without limit"
        )
    if low is not None and high is not None and low > high:
        raise InvalidInput(f"the minimum of '{name}' is above its maximum", field=name, hint="swap them")
