"""Which version a push becomes, and which it may not be. # S2 S3"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from keelway.contract.compatibility import Promise, Reason
from keelway.contract.constraints import Constraint, Policy
from keelway.contract.semver import Version
from keelway.contract.signature import Feature, ModelSignature, pack
from keelway.errors import FailedPrecondition
from keelway.publish.bump import Bump, bump_lines, compute
from keelway.registry.models import ModelVersion
from keelway.registry.standing import LiveVersion, Standing
from keelway.types import TensorSpec

A, B = Feature("a", "FP32"), Feature("b", "FP32")


def promise(*features: Feature, outputs: Sequence[str] = ("y",), policy: Policy | None = None) -> Promise:
    specs = tuple(TensorSpec(name, "FP32", (-1,)) for name in outputs)
    return Promise(ModelSignature(features or (A,), pack(features or (A,)), specs), policy or Policy())


PLAIN = promise()
WIDER = promise(Feature("a", "FP64"))
BROKEN = promise(A, B)

SAME = Reason("patch", "equivalent", "", "alike")
OTHER = Reason("minor", "predictions_differ", "", "not alike")
REFUSED = Reason("major", "rows_refused", "", "rows are refused now")


def live(version: str, *aliases: str) -> LiveVersion:
    return LiveVersion(
        ModelVersion("m", version, "sha256:" + version, 0.0, "ann", "available", {}, None, {}), Policy(), aliases
    )


def computed(
    new: Promise,
    there: dict[str, Promise],
    *,
    declared: str | None = None,
    behaviour: dict[str, Reason] | None = None,
    numbers: Sequence[str] = (),
) -> Bump:
    """``there`` are the live versions, the highest first."""
    standing = Standing((*numbers, *there), tuple(live(version, "champion") for version in there))
    return compute(
        standing,
        new,
        None if declared is None else Version.parse(declared),
        lambda found: there[found.version.version],
        lambda found: [(behaviour or {}).get(found.version.version, SAME)],
    )


def test_the_first_version_is_1_0_0_or_what_is_declared() -> None:
    assert computed(PLAIN, {}).version == "1.0.0"
    assert computed(PLAIN, {}, declared="0.3.0").version == "0.3.0"


@pytest.mark.parametrize(
    ("new", "behaviour", "version"),
    [(PLAIN, SAME, "1.2.4"), (PLAIN, OTHER, "1.3.0"), (WIDER, SAME, "1.3.0"), (BROKEN, SAME, "2.0.0"),
     (BROKEN, OTHER, "2.0.0")],
)  # fmt: skip
def test_the_version_says_what_the_comparison_found(new: Promise, behaviour: Reason, version: str) -> None:
    bump = computed(new, {"1.2.3": PLAIN}, behaviour={"1.2.3": behaviour})
    assert (bump.version, bump.computed) == (version, version)
    assert bump.compared[0].against == "1.2.3"


@pytest.mark.parametrize(
    ("declared", "new"), [("1.3.0", BROKEN), ("1.2.4", WIDER), ("1.9.0", BROKEN), ("1.2.4", BROKEN)]
)
def test_a_version_that_says_too_little_is_refused_with_the_reasons(declared: str, new: Promise) -> None:
    with pytest.raises(FailedPrecondition, match="too little") as refused:
        computed(new, {"1.2.3": PLAIN}, declared=declared)
    assert "beside 1.2.3: the input '" in refused.value.message
    assert refused.value.hint is not None
    assert computed(new, {"1.2.3": PLAIN}).version in refused.value.hint


@pytest.mark.parametrize("declared", ["2.0.0", "2.0.0-rc.1", "3.1.0"])
def test_a_version_that_says_enough_or_more_is_taken(declared: str) -> None:
    bump = computed(BROKEN, {"1.2.3": PLAIN}, declared=declared)
    assert (bump.version, bump.computed) == (declared, "2.0.0")


def test_many_reasons_are_cut() -> None:
    many = promise(*(Feature(f"f{place}", "FP32") for place in range(20)))
    with pytest.raises(FailedPrecondition, match="more reasons"):
        computed(many, {"1.0.0": PLAIN}, declared="1.1.0")


def test_every_live_version_counts_and_not_the_highest_alone() -> None:  # S3
    # As 1.1.0 already has it, an input is gone that callers of the champion 1.0.0 send: 1.1.0 was forced in, say.
    there = {"1.1.0": PLAIN, "1.0.0": promise(A, B)}
    assert computed(PLAIN, {"1.1.0": PLAIN}).version == "1.1.1"
    assert computed(PLAIN, there).version == "2.0.0"
    with pytest.raises(FailedPrecondition, match=r"beside 1\.0\.0: the input 'b' is gone"):
        computed(PLAIN, there, declared="1.1.1")


def test_a_version_below_a_live_one_is_compared_the_other_way_round() -> None:  # S3
    there = {"1.4.0": PLAIN, "1.2.0": promise(A, outputs=("y",))}
    # Its callers will be moved up to 1.4.0, which lacks an output that it adds.
    richer = promise(A, outputs=("y", "z"))
    with pytest.raises(FailedPrecondition, match=r"beside 1\.4\.0: the output 'z' is gone"):
        computed(richer, there, declared="1.3.0")
    assert computed(PLAIN, there, declared="1.2.1").version == "1.2.1"
    # Of the way back from 1.4.0 nobody is told, so that it does not count.
    assert computed(PLAIN, {"1.4.0": richer, "1.2.0": PLAIN}, declared="1.3.0").version == "1.3.0"


def test_answers_that_differ_count_on_the_way_up_to_a_live_version_too() -> None:  # S3
    there = {"1.4.1": PLAIN, "1.3.0": PLAIN}
    for found in (OTHER, REFUSED):
        beside = {"1.4.1": found}
        with pytest.raises(FailedPrecondition, match=rf"beside 1\.4\.1: {found.message} \(minor\)"):
            computed(PLAIN, there, declared="1.4.0", behaviour=beside)
        # From 1.3.1 to 1.4.1 it is said.
        assert computed(PLAIN, there, declared="1.3.1", behaviour=beside).version == "1.3.1"
    assert computed(PLAIN, there, declared="1.4.0").version == "1.4.0"


def test_an_older_line_goes_on() -> None:
    there = {"2.0.0": BROKEN, "1.4.0": PLAIN}
    assert computed(PLAIN, there, declared="1.4.1").version == "1.4.1"
    assert computed(BROKEN, there).version == "2.0.1"
    assert computed(PLAIN, there).version == "3.0.0"


def test_a_pre_release_promises_nothing_where_there_is_a_release() -> None:
    assert computed(PLAIN, {"2.0.0-rc.1": BROKEN, "1.0.0": PLAIN}).version == "1.0.1"
    assert computed(BROKEN, {"2.0.0-rc.1": BROKEN, "1.0.0": PLAIN}).version == "2.0.0"
    assert computed(BROKEN, {"2.0.0-rc.1": PLAIN}).version == "2.0.0"


def test_before_1_0_0_the_second_number_says_what_breaks() -> None:
    assert computed(BROKEN, {"0.3.1": PLAIN}).version == "0.4.0"
    assert computed(WIDER, {"0.3.1": PLAIN}).version == "0.3.2"


def test_numbers_of_archived_versions_are_not_used_again() -> None:
    assert computed(PLAIN, {"1.0.0": PLAIN}, numbers=("1.4.0",)).version == "1.4.1"
    assert computed(BROKEN, {"1.0.0": PLAIN}, numbers=("1.4.0",)).version == "2.0.0"
    assert computed(PLAIN, {}, numbers=("1.4.0",)).version == "1.5.0"


def test_what_is_declared_of_a_live_version_counts() -> None:
    declared = promise(A, policy=Policy(3, (Constraint("a", 0, 1),)))
    assert computed(PLAIN, {"1.0.0": declared}).version == "1.1.0"


def test_the_lines_say_beside_what_and_why() -> None:
    import msgspec

    bump = computed(WIDER, {"1.2.3": PLAIN}, behaviour={"1.2.3": OTHER}, declared="1.5.0")
    assert bump_lines(msgspec.to_builtins(bump)) == [
        "minor beside 1.2.3 (champion):",
        "  minor: the input 'a' was FP32 and is FP64, which holds every value of the former",
        "  minor: not alike",
        "computed was 1.3.0; 1.5.0 was declared",
    ]
    assert bump_lines({}) == []
    assert bump_lines(msgspec.to_builtins(replace(bump, compared=()))) == []
