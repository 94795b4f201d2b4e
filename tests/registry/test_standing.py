# S3, S6: what a new version is compared with, and a push that was decided on something else
from __future__ import annotations

from typing import Any

import pytest

from keelway.contract.constraints import Constraint, Policy
from keelway.errors import Overtaken
from keelway.registry.standing import Standing
from keelway.registry.store import Registry

BY: dict[str, Any] = {"who": "ann", "why": "because"}
DIGEST = f"sha256:{0:064x}"


def push(registry: Registry, *versions: str) -> None:
    for version in versions:
        registry.push("churn", version, DIGEST, **BY)


def live(registry: Registry) -> dict[str, tuple[str, ...]]:
    return {found.version.version: found.aliases for found in registry.standing("churn").live}


def test_a_model_that_is_not_there_stands_nowhere(registry: Registry) -> None:
    assert registry.standing("churn") == Standing()


def test_live_is_what_an_alias_points_to_and_the_highest_release(registry: Registry) -> None:
    push(registry, "1.9.0", "1.10.0", "1.2.0", "2.0.0-rc.1")
    assert live(registry) == {"1.10.0": (), "1.9.0": ("champion",)}
    assert registry.standing("churn").numbers == ("2.0.0-rc.1", "1.10.0", "1.9.0", "1.2.0")
    registry.set_alias("churn", "blue", "1.2.0", **BY)
    registry.set_alias("churn", "green", "1.2.0", **BY)
    registry.set_alias("churn", "next", "2.0.0-rc.1", **BY)
    registry.archive("churn", "1.10.0", **BY)
    assert live(registry) == {"2.0.0-rc.1": ("next",), "1.9.0": ("champion",), "1.2.0": ("blue", "green")}
    assert "1.10.0" in registry.standing("churn").numbers


def test_without_a_release_the_highest_pre_release_is_live(registry: Registry) -> None:
    push(registry, "1.0.0-rc.1", "1.0.0-rc.2")
    registry.remove_alias("churn", "champion", **BY)
    assert live(registry) == {"1.0.0-rc.2": ()}


def test_a_live_version_comes_with_its_newest_policy(registry: Registry) -> None:
    push(registry, "1.0.0")
    registry.set_policy("churn", "1.0.0", Policy(1, (Constraint("age", 0, 9),)), **BY, expected_revision=1)
    (found,) = registry.standing("churn").live
    assert found.policy == Policy(2, (Constraint("age", 0, 9),))


@pytest.mark.parametrize("change", ["push", "alias", "policy", "archive"])
def test_a_push_that_was_decided_on_another_state_is_overtaken(registry: Registry, change: str) -> None:
    push(registry, "1.0.0", "1.1.0")
    before = registry.standing("churn")
    if change == "push":
        push(registry, "1.2.0")
    elif change == "alias":
        registry.set_alias("churn", "challenger", "1.0.0", **BY)
    elif change == "policy":
        registry.set_policy("churn", "1.0.0", Policy(1, (Constraint("age", 0, 9),)), **BY, expected_revision=1)
    else:
        registry.archive("churn", "1.1.0", **BY)
    token = registry.state_token()
    with pytest.raises(Overtaken):
        registry.push("churn", "1.3.0", DIGEST, decided_on=before, **BY)
    assert registry.state_token() == token
    assert registry.push("churn", "1.3.0", DIGEST, decided_on=registry.standing("churn"), **BY).version == "1.3.0"


def test_the_same_version_pushed_meanwhile_overtakes_too_and_is_the_same_the_next_time(registry: Registry) -> None:
    before = registry.standing("churn")
    push(registry, "1.0.0")
    with pytest.raises(Overtaken):
        registry.push("churn", "1.0.0", DIGEST, decided_on=before, **BY)
    again = registry.push("churn", "1.0.0", DIGEST, decided_on=registry.standing("churn"), **BY)
    assert again == registry.get("churn", "1.0.0")
