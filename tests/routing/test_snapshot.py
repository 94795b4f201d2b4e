"""Names, versions and aliases resolve to one version, and what is not served is said in the same words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keelway.contract.binding import Binding
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import InvalidInput, NotFound, Unavailable
from keelway.routing.snapshot import ServedModel, ServedVersion, ServingSnapshot, Usage
from keelway.testing import FakeRuntime
from keelway.types import BoundRequest, OutputRoles, TensorSpec

SIGNATURE = ModelSignature(
    (Feature("x", "FP32"),),
    (TensorSpec("x", "FP32", (-1,)),),
    (TensorSpec("label", "INT64", (-1,)), TensorSpec("shares", "FP32", (-1, 2))),
    "classification",
    (0, 1),
    "label",
    "shares",
)


class Lenient:
    """A validator that lets everything pass."""

    def validate(self, bound: BoundRequest, *, atomic: bool) -> BoundRequest:
        return bound


def version(name: str, number: str) -> ServedVersion:
    runtime = FakeRuntime(SIGNATURE.inputs, SIGNATURE.outputs, dict)
    return ServedVersion(
        name, number, f"sha256:{number}", 1, SIGNATURE, Binding(SIGNATURE, 10), Lenient(), runtime, None
    )


def served(name: str, *numbers: str, **aliases: str) -> ServedModel:
    return ServedModel(name, {number: version(name, number) for number in numbers}, numbers[-1], aliases)


SNAPSHOT = ServingSnapshot(
    {"lead-scoring": served("lead_scoring", "1.9.0", "1.10.0", champion="1.9.0"), "churn": served("churn", "1.0.0")},
    frozenset({"lead-scoring", "churn", "sleeping-model"}),
)


@pytest.mark.parametrize(
    ("name", "selector", "number"),
    [
        ("lead-scoring", None, "1.10.0"),
        ("lead_scoring", None, "1.10.0"),
        ("lead_scoring", "1.9.0", "1.9.0"),
        ("lead-scoring", "champion", "1.9.0"),
        ("churn", None, "1.0.0"),
    ],
)
def test_a_name_in_either_spelling_with_version_alias_or_neither(name: str, selector: str | None, number: str) -> None:
    # R1 S4
    assert SNAPSHOT.resolve(name, selector).version == number


@pytest.mark.parametrize(
    ("name", "selector"),
    [("nobody", None), ("churn", "9.9.9"), ("churn", "champion"), ("Churn", None), ("", None), ("churn", "")],
)
def test_what_is_unknown_is_said_in_the_same_words(name: str, selector: str | None) -> None:
    # R1 R3
    with pytest.raises(NotFound) as refused:
        SNAPSHOT.resolve(name, selector)
    assert refused.value.message == "no such model or version is served here"
    assert refused.value.field is None


def test_a_model_that_is_configured_and_not_loaded_is_worth_a_retry() -> None:
    # R4
    for name in ("sleeping-model", "sleeping_model"):
        with pytest.raises(Unavailable, match="this model is not loaded") as refused:
            SNAPSHOT.resolve(name, None)
        assert refused.value.retry_after == 1.0


def test_the_short_routes_know_the_only_model_and_guess_at_no_other() -> None:
    # R2
    assert SNAPSHOT.only is None
    assert ServingSnapshot().only is None
    churn = SNAPSHOT.models["churn"]
    assert ServingSnapshot({"churn": churn}).only is churn


def test_a_version_knows_what_its_outputs_mean() -> None:
    # R2
    assert version("churn", "1.0.0").roles == OutputRoles("label", "shares", (0, 1))
    assert version("churn", "1.0.0").output_names == ("label", "shares")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("label", "sentinel-4711"), "this model has no such output; it has label, shares"),
        (("label", "label"), "an output is asked for twice"),
    ],
)
def test_outputs_that_are_unknown_or_asked_for_twice_are_refused(names: tuple[str, ...], message: str) -> None:
    # R1 R3: a million times the same output would be a reply a million times as long.
    version("churn", "1.0.0").check_outputs(("shares", "label"))
    with pytest.raises(InvalidInput) as refused:
        version("churn", "1.0.0").check_outputs(names)
    assert refused.value.message == message


def test_versions_are_themselves_and_equal_to_nobody_else() -> None:
    # They are keys of what is kept per version: headers, meters.
    first: Any = version("churn", "1.0.0")
    assert first != version("churn", "1.0.0")
    assert {first: 1}[first] == 1


def test_a_version_is_idle_again_after_its_last_run_and_not_before() -> None:
    # R6
    async def scenario() -> list[bool]:
        usage = Usage()
        waited = []
        usage.begin()
        usage.begin()
        idle = asyncio.ensure_future(usage.idle())
        for end in (False, True, True):
            if end:
                usage.end()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waited.append(idle.done())
        await asyncio.wait_for(usage.idle(), 1)
        usage.begin()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(usage.idle(), 0.01)
        return waited

    assert asyncio.run(scenario()) == [False, False, True]
