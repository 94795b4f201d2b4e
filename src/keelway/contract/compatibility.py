"""What a caller of one version of a model would notice of another, and which part of the version number has to say so.

Pure: it compares what two versions promise (signature and policy), rule by rule, for somebody who was written against
the old one and meets the new one. So it has a direction: a rollback is compared the other way round. What a sample
showed never counts. Whether the predictions differ is for ``keelway.publish.behaviour`` to find out; ``keelway push``
and ``keelway diff`` put both together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from keelway.contract.constraints import Constraint, Policy
from keelway.contract.semver import Part, Version
from keelway.contract.signature import Feature, ModelSignature
from keelway.types import NUMPY_DTYPES, TensorSpec

_Named = TypeVar("_Named", Feature, TensorSpec)

_ORDER: Final[dict[Part, int]] = {"patch": 0, "minor": 1, "major": 2}


class Reason(msgspec.Struct, frozen=True):
    """One difference: the ``part`` of the version that it asks for, the ``rule`` by which it does, the ``subject`` (a
    feature, a tensor, or nothing) and what happened, in words."""

    part: Part
    rule: str
    subject: str
    message: str


class Promise(msgspec.Struct, frozen=True):
    """What a version promises its callers."""

    signature: ModelSignature
    policy: Policy = Policy()


def compare(old: Promise, new: Promise) -> tuple[Reason, ...]:
    """What changes for a caller of ``old`` who meets ``new``, the gravest first. Empty if nothing does."""
    found = [
        *_features(old.signature, new.signature),
        *_tensors(old.signature, new.signature),
        *_outputs(old.signature, new.signature),
        *_meaning(old.signature, new.signature),
        *_constraints(old, new),
        *_rules(old.policy, new.policy),
    ]
    return tuple(sorted(found, key=lambda reason: -_ORDER[reason.part]))


def needed(reasons: Iterable[Reason]) -> Part:
    """The part of the version that ``reasons`` ask for together; ``patch`` where there are none."""
    return max((reason.part for reason in reasons), key=_ORDER.__getitem__, default="patch")


def following(base: Version, part: Part) -> Version:
    """The version after ``base`` that says ``part``. Before 1.0.0 the second number says what breaks and the third all
    else, which is how ``^0.2`` is read."""
    if base.major == 0:
        return base.bump("minor" if part == "major" else "patch")
    return base.bump(part)


def says_enough(base: Version, declared: Version, part: Part) -> bool:
    """Whether whoever goes from ``base`` up to ``declared`` is told of a change of ``part``. A pre-release says what
    the release says that it announces."""
    return Version(declared.major, declared.minor, declared.patch) >= following(base, part)


def is_lossless(old: str, new: str) -> bool:
    """Whether every value of the datatype ``old`` is one of ``new``: INT32 is in FP64, INT64 is not."""
    before, after = NUMPY_DTYPES[old], NUMPY_DTYPES[new]
    if before.kind in "iu" and after.kind == "f":
        return bool(np.iinfo(before).bits - (before.kind == "i") <= np.finfo(after).nmant + 1)
    return before.kind in "iuf" and after.kind in "iuf" and np.can_cast(before, after, "safe")


# Inputs


def _features(old: ModelSignature, new: ModelSignature) -> Iterator[Reason]:
    before = {feature.name: feature for feature in old.features}
    after = {feature.name: feature for feature in new.features}
    renamed = _renamed(old.features, new.features)
    for name, feature in before.items():
        if name in renamed:
            yield _major("input_renamed", name, f"the input '{name}' is called '{renamed[name]}' now")
        elif name not in after:
            yield _major("input_removed", name, f"the input '{name}' is gone: rows that name it are refused")
        else:
            yield from _feature(feature, after[name])
    for name in after.keys() - before.keys() - set(renamed.values()):
        if after[name].nullable:
            yield _minor("optional_input_added", name, f"the input '{name}' is new and may be missing")
        else:
            yield _major("required_input_added", name, f"the input '{name}' is new and may not be missing")
    if _moved(list(before), list(after), renamed):
        yield _major("positional_order", "", "the inputs have another order: rows sent as lists would be misread")


def _feature(old: Feature, new: Feature) -> Iterator[Reason]:
    name = old.name
    if old.datatype != new.datatype:
        what = f"the input '{name}' was {old.datatype} and is {new.datatype}"
        if is_lossless(old.datatype, new.datatype):
            yield _minor("input_widened", name, f"{what}, which holds every value of the former")
        elif is_lossless(new.datatype, old.datatype):
            yield _major("input_narrowed", name, f"{what}, which does not hold every value of the former")
        else:
            yield _major("input_retyped", name, what)
    if old.nullable and not new.nullable:
        yield _major("nullable_to_required", name, f"the input '{name}' may not be missing any more")
    elif new.nullable and not old.nullable:
        yield _minor("required_to_nullable", name, f"the input '{name}' may be missing now")
    yield from _shape("input", name, old.shape, new.shape)


def _tensors(old: ModelSignature, new: ModelSignature) -> Iterator[Reason]:
    """What callers notice who send the model's own tensors; what has to do with features has been said."""
    if old.batched and not new.batched:
        yield _major("batch_axis", "", "the model takes one row a request now, not many")
    elif new.batched and not old.batched:
        yield _major("batch_axis", "", "the tensors have a batch axis now, in front of what they had")
    after = {spec.name: spec for spec in new.inputs}
    renamed = _renamed(old.features, new.features)
    features = {feature.name for feature in new.features}
    for spec in old.inputs:
        there = after.get(spec.name)
        if there is None:
            if spec.columns:
                yield _major("tensor_removed", spec.name, f"there is no input tensor '{spec.name}' any more")
        elif bool(spec.columns) != bool(there.columns) or (not spec.columns and len(spec.shape) != len(there.shape)):
            yield _major("tensor_reshaped", spec.name, f"the input tensor '{spec.name}' has another number of axes")
        elif spec.columns and _moved(spec.columns, there.columns, renamed):
            yield _major("positional_order", spec.name, f"the columns of the tensor '{spec.name}' have another order")
        elif any(name in features and name not in there.columns for name in spec.columns):
            yield _major("tensor_reshaped", spec.name, f"columns of the tensor '{spec.name}' are in another one now")
    before = {spec.name for spec in old.inputs} | {feature.name for feature in old.features} | set(renamed.values())
    alone = {spec.name for spec in old.inputs if not spec.columns}
    for spec in new.inputs:
        # Columns may be sent one by one, as they were.
        if spec.name not in before and not (spec.columns and alone.issuperset(spec.columns)):
            yield _major("tensor_added", spec.name, f"whoever sends tensors has to send '{spec.name}' too")


# Outputs


def _outputs(old: ModelSignature, new: ModelSignature) -> Iterator[Reason]:
    before = {spec.name: spec for spec in old.outputs}
    after = {spec.name: spec for spec in new.outputs}
    renamed = _renamed(old.outputs, new.outputs)
    for name, spec in before.items():
        if name in renamed:
            yield _major("output_renamed", name, f"the output '{name}' is called '{renamed[name]}' now")
        elif name not in after:
            yield _major("output_removed", name, f"the output '{name}' is gone")
        else:
            there = after[name]
            if there.datatype != spec.datatype:
                what = f"the output '{name}' was {spec.datatype} and is {there.datatype}"
                yield _major("output_retyped", name, what)
            # For an output, what a caller was told of its size must go on to hold.
            yield from _shape("output", name, there.shape, spec.shape, backwards=True)
    for name in after.keys() - before.keys() - set(renamed.values()):
        yield _minor("output_added", name, f"the output '{name}' is new")
    if _moved(list(before), list(after), renamed):
        yield _major("output_order", "", "the outputs have another order")


def _meaning(old: ModelSignature, new: ModelSignature) -> Iterator[Reason]:
    """What the predictions, probabilities and classes of an answer are."""
    if old.task != new.task:
        make = _minor if old.task == "other" else _major
        yield make("task_changed", "", f"the task was {old.task} and is {new.task}")
    renamed = _renamed(old.outputs, new.outputs)
    if renamed.get(old.label_output, old.label_output) != new.label_output:
        yield _major("prediction_changed", new.label_output, "the predictions of an answer are another output")
    if renamed.get(old.probability_output, old.probability_output) != new.probability_output:
        if old.probability_output:
            yield _major(
                "probabilities_changed", old.probability_output, "the probabilities are another output, or gone"
            )
        else:
            yield _minor("probabilities_added", new.probability_output, "answers have probabilities now")
    before, after = list(map(_typed, old.labels)), list(map(_typed, new.labels))
    if not before or before == after:
        if after and not before:
            yield _minor("classes_named", "", "answers name the classes now")
        return
    if not after:
        yield _major("classes_unnamed", "", "answers do not name the classes any more")
    elif set(before) == set(after):
        yield _major("class_order", "", "the classes have another order: probabilities would be misread")
    else:
        for label in set(before) - set(after):
            yield _major("class_removed", str(label[1]), f"the class {label[1]!r} is gone")
        for label in set(after) - set(before):
            message = f"the class {label[1]!r} is new: no caller knows what to do with it"
            yield _major("class_added", str(label[1]), message)


# What is declared


def _constraints(old: Promise, new: Promise) -> Iterator[Reason]:
    before = {constraint.feature: constraint for constraint in old.policy.constraints}
    after = {constraint.feature: constraint for constraint in new.policy.constraints}
    kept = {feature.name for feature in old.signature.features} & {feature.name for feature in new.signature.features}
    for name in sorted(kept):
        former, latter = before.get(name, Constraint(name)), after.get(name, Constraint(name))
        if former != latter:
            found = list(_constraint(former, latter))
            changed = _minor("constraint_changed", name, f"what is declared of '{name}' is enforced in another way")
            yield from found or [changed]


def _constraint(old: Constraint, new: Constraint) -> Iterator[Reason]:
    """A value that is flagged is answered as ever, so limits of that kind are none here."""
    name = old.feature
    former, latter = _enforced(old), _enforced(new)
    low = _compared(former.minimum, latter.minimum, -math.inf)
    high = -_compared(former.maximum, latter.maximum, math.inf)
    if low > 0 or high > 0:
        yield _major("range_narrowed", name, f"the declared range of '{name}' is narrower")
    elif low < 0 or high < 0:
        yield _minor("range_widened", name, f"the declared range of '{name}' is wider")
    if latter.categories and (not former.categories or set(former.categories) - set(latter.categories)):
        yield _major("categories_narrowed", name, f"'{name}' may not have every category any more that it could have")
    elif set(former.categories) != set(latter.categories):
        yield _minor("categories_widened", name, f"'{name}' may have more categories")
    if latter.pattern and latter.pattern != former.pattern:
        yield _major("pattern_changed", name, f"'{name}' has to match another pattern, which may hold less")
    elif former.pattern and not latter.pattern:
        yield _minor("pattern_removed", name, f"'{name}' has to match no pattern any more")
    if former.nullable and not latter.nullable:
        yield _major("nullable_to_required", name, f"'{name}' may not be missing any more, by what is declared")
    elif latter.nullable and not former.nullable:
        yield _minor("required_to_nullable", name, f"'{name}' may be missing now, by what is declared")
    limited = latter.minimum is not None or latter.maximum is not None
    if limited and (former.on_violation, latter.on_violation) == ("clip", "reject"):
        yield _major("violation_refused", name, f"a value of '{name}' out of its range is refused now, not clipped")


def _rules(old: Policy, new: Policy) -> Iterator[Reason]:
    for what, former, latter in (("anomalous", old.anomaly, new.anomaly), ("probing", old.probing, new.probing)):
        if latter.action == "reject" and former.action != "reject":
            yield _major("rows_refused", "", f"{what} rows are refused now")
        elif former != latter:
            yield _minor("rule_changed", "", f"another rule says what becomes of {what} rows")


def _enforced(constraint: Constraint) -> Constraint:
    return Constraint(constraint.feature) if constraint.on_violation == "flag" else constraint


def _compared(old: float | None, new: float | None, without: float) -> int:
    """1 where ``new`` is the higher bound, -1 where it is the lower; ``without`` stands for none."""
    before, after = without if old is None else old, without if new is None else new
    return (after > before) - (after < before)


# Shared


def _shape(
    what: str, name: str, old: Sequence[int], new: Sequence[int], *, backwards: bool = False
) -> Iterator[Reason]:
    """``old`` has to fit wherever ``new`` is wanted. ``backwards``: the two have changed places, as with outputs."""
    if tuple(old) == tuple(new):
        return
    wider = len(old) == len(new) and all(after in (-1, before) for before, after in zip(old, new, strict=True))
    was, is_now = (list(new), list(old)) if backwards else (list(old), list(new))
    message = f"the shape of the {what} '{name}' was {was} and is {is_now}"
    yield (_minor if wider else _major)(f"{what}_reshaped", name, message)


def _renamed(old: Sequence[_Named], new: Sequence[_Named]) -> dict[str, str]:
    """What has another name at the same place, and is else the same."""
    before, after = {item.name for item in old}, {item.name for item in new}
    return {
        former.name: latter.name
        for former, latter in zip(old, new, strict=False)
        if former.name not in after and latter.name not in before and former.datatype == latter.datatype
        and former.shape == latter.shape
    }  # fmt: skip


def _moved(old: Sequence[str], new: Sequence[str], renamed: dict[str, str]) -> bool:
    """Whether what is left of ``old`` stands in another order in ``new``, or behind something that was not there."""
    left = [renamed.get(name, name) for name in old if renamed.get(name, name) in set(new)]
    return left != list(new)[: len(left)]


def _typed(label: Any) -> tuple[str, Any]:
    """1, 1.0 and True are equal and no client would say so."""
    return type(label).__name__, label


def _major(rule: str, subject: str, message: str) -> Reason:
    return Reason("major", rule, subject, message)


def _minor(rule: str, subject: str, message: str) -> Reason:
    return Reason("minor", rule, subject, message)
