"""What is declared for a feature, as the OpenAPI document says it."""

from __future__ import annotations

from typing import Any

import msgspec

from keelway.contract.constraints import Constraint
from keelway.contract.signature import Feature


def constrained(feature: Feature, constraint: Constraint | None) -> Feature:
    """``feature`` as it is required: one that may be missing may still be forbidden to."""
    if constraint is None or constraint.nullable or constraint.on_violation == "flag":
        return feature
    return msgspec.structs.replace(feature, nullable=False)


def constraint_schema(feature: Feature, constraint: Constraint | None) -> dict[str, Any]:
    """What is declared for a scalar, as JSON Schema has it where it refuses; in words where it clips or flags. Patterns
    are those of RE2, which differ from JSON Schema's: in words too."""
    if constraint is None or feature.shape:
        return {}
    schema: dict[str, Any] = {}
    rules = {"minimum": constraint.minimum, "maximum": constraint.maximum}
    if constraint.on_violation == "reject":
        schema |= {name: bound for name, bound in rules.items() if bound is not None}
        if constraint.categories:
            schema["enum"] = [*constraint.categories, *([None] if feature.nullable else [])]
    words = [f"{name} {bound:g}" for name, bound in rules.items() if bound is not None]
    words += [f"one of {len(constraint.categories)} categories"] if constraint.categories else []
    words += [f"matches {constraint.pattern}"] if constraint.pattern else []
    if words:
        done = {"reject": "is refused", "clip": "is clipped", "flag": "is flagged"}[constraint.on_violation]
        schema["description"] = f"Declared: {', '.join(words)}; what is outside {done}."
    return schema
