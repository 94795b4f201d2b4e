"""A policy as TOML, as people read and edit it. Pure: text in, text out; ``keelway constraints`` is the caller.

    [anomaly]
    action = "tag"

    [features.age]
    minimum = 18
    maximum = 120
    on_violation = "clip"

A feature is a table of its own, so that TOML itself refuses two constraints on one. The revision is no part of it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.constraints import AnomalyRule, Constraint, Policy, ProbingRule
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import InvalidInput

_HINT: Final = "see keelway constraints show NAME@VERSION for how it is written"
#: More categories than this are no list that a person accepts.
_PROPOSED_CATEGORIES: Final = 50


class _File(msgspec.Struct, forbid_unknown_fields=True):
    anomaly: dict[str, Any] = {}
    probing: dict[str, Any] = {}
    features: dict[str, dict[str, Any]] = {}


def parse_policy(text: str) -> Policy:
    """The policy in ``text``, with revision 1. Raises ``InvalidInput`` for what is no TOML or no policy; whether it
    fits a model is ``check_policy``'s business."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"the policy is not valid TOML: {error}", hint=_HINT) from None
    try:
        file = msgspec.convert(document, _File)
        constraints = [{**rules, "feature": name} for name, rules in file.features.items()]
        known = {"constraints": constraints, "anomaly": file.anomaly, "probing": file.probing}
        return msgspec.convert(known, Policy)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the policy cannot be read: {_where(str(error), document)}", hint=_HINT) from None


def policy_text(policy: Policy) -> str:
    """``policy`` as TOML that ``parse_policy`` makes the same policy of. What is as it is by default is left out, but
    for what is done."""
    blocks = [
        _table("[anomaly]", {"action": policy.anomaly.action, **_fields(policy.anomaly)}),
        _table("[probing]", {"action": policy.probing.action, **_fields(policy.probing)}),
    ]
    for constraint in policy.constraints:
        rules = {name: value for name, value in _fields(constraint).items() if name != "feature"}
        rules["on_violation"] = constraint.on_violation
        blocks.append(_table(f"[features.{_key(constraint.feature)}]", rules))
    return "\n".join(blocks)


def proposed(signature: ModelSignature, baseline: Baseline, margin: float) -> Policy:
    """Constraints such as the sample suggests: each range widened by ``margin`` times its width at both ends, but not
    below 0 where nothing was; the categories seen, where they are few. They flag, and refuse nothing yet."""
    seen = {feature.name: feature for feature in baseline.features}
    made = (_proposed(feature, seen[feature.name], margin) for feature in signature.features if feature.name in seen)
    return Policy(constraints=tuple(constraint for constraint in made if constraint is not None))


def _proposed(feature: Feature, seen: ObservedFeature, margin: float) -> Constraint | None:
    if feature.shape or not seen.count:
        return None
    nullable = not feature.nullable or seen.missing > 0
    if feature.datatype == "BYTES":
        few = not seen.categories_cut and len(seen.categories) <= _PROPOSED_CATEGORIES
        categories = tuple(sorted(seen.categories)) if few else ()
        if not categories and nullable:
            return None
        return Constraint(feature.name, categories=categories, nullable=nullable, on_violation="flag")
    if seen.minimum is None or seen.maximum is None:
        return None
    low, high = seen.minimum, seen.maximum
    more = margin * (high / 2 - low / 2) * 2
    low_end = low - more if low < 0 else max(0.0, low - more)
    high_end = high + more if high > 0 else min(0.0, high + more)
    return Constraint(
        feature.name,
        _rounded(low_end, up=False),
        _rounded(high_end, up=True),
        nullable=nullable,
        on_violation="flag",
    )


def _rounded(value: float, *, up: bool) -> float | None:
    """To three digits, outwards; ``None`` beyond float64."""
    rounded = float(f"{value:.2e}")
    if rounded < value if up else rounded > value:
        step = 10.0 ** (int(f"{value:e}".partition("e")[2]) - 2)
        rounded = float(f"{rounded + (step if up else -step):.2e}")
    return rounded if abs(rounded) != float("inf") and rounded == rounded else None


def _fields(rules: Constraint | AnomalyRule | ProbingRule) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(rules)
    return fields


def _table(header: str, fields: Mapping[str, Any]) -> str:
    return "\n".join([header, *(f"{name} = {_value(value)}" for name, value in fields.items())]) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    # TOML's basic strings are JSON's, but for DEL, which has to be escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    plain = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if plain else _quoted(name)


def _where(message: str, document: Mapping[str, Any]) -> str:
    """msgspec's message, with the name of the feature in place of its position."""
    features = document.get("features")
    for position, name in enumerate(features if isinstance(features, dict) else ()):
        message = message.replace(f"$.constraints[{position}]", f"features.{name}")
    return message
