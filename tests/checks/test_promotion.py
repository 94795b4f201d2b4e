"""Which check lets a version become champion: one that still speaks of what there is. # Y1 S4"""

from __future__ import annotations

from typing import Any

import pytest

from keelway.checks.promotion import promote
from keelway.contract.constraints import Constraint, Policy
from keelway.errors import FailedPrecondition
from keelway.registry.store import Registry

VERSIONS = ("1.0.0", "1.1.0", "1.2.0")


@pytest.fixture
def shop(registry: Registry) -> Registry:
    """Three versions, the first of them champion."""
    for number, version in enumerate(VERSIONS):
        registry.push("churn", version, f"sha256:{number:064}", who="ann", why="pushed")
    return registry


def check(shop: Registry, version: str, against: str | None = "1.0.0", *, passed: bool = True, **said: Any) -> None:
    digest = shop.get("churn", version).model_digest
    document = {"outcome": "passed" if passed else "failed", "policy_revision": 1, **said}
    shop.record_check(
        "churn", version, model_digest=digest, passed=passed, against=against, document=document, who="ci", why="ci"
    )


def move(shop: Registry, version: str, **options: Any) -> dict[str, Any] | None:
    return promote(shop, "churn", version, who="ann", why="better", **options).evidence


def champion(shop: Registry) -> str:
    return shop.resolve("churn").version


def test_a_check_beside_the_champion_lets_a_version_take_its_place(shop: Registry) -> None:
    check(shop, "1.1.0")
    assert move(shop, "1.1.0") == {"check": {"id": 1, "passed": True, "against": "1.0.0"}}
    assert champion(shop) == "1.1.0"


def test_a_check_beside_a_champion_of_before_does_not(shop: Registry) -> None:
    check(shop, "1.1.0")
    check(shop, "1.2.0")
    move(shop, "1.2.0")
    with pytest.raises(FailedPrecondition, match=r"compared it with 1\.0\.0, and the champion is 1\.2\.0 now"):
        move(shop, "1.1.0")
    assert champion(shop) == "1.2.0"
    check(shop, "1.1.0", against="1.2.0")
    move(shop, "1.1.0")
    assert champion(shop) == "1.1.0"


def test_a_check_that_compared_with_nothing_holds_whoever_is_champion(shop: Registry) -> None:
    check(shop, "1.2.0", against=None)
    check(shop, "1.1.0", against=None)
    move(shop, "1.2.0")
    move(shop, "1.1.0")
    assert champion(shop) == "1.1.0"


def test_a_check_under_another_policy_does_not(shop: Registry) -> None:
    check(shop, "1.1.0")
    stricter = Policy(constraints=(Constraint("age", 0, 130),))
    shop.set_policy("churn", "1.1.0", stricter, who="ann", why="x", expected_revision=1)
    with pytest.raises(FailedPrecondition, match="policy was changed since it was checked"):
        move(shop, "1.1.0")
    check(shop, "1.1.0", policy_revision=2)
    assert move(shop, "1.1.0") is not None


def test_force_moves_it_all_the_same_and_is_recorded_where_the_check_was_not_enough(shop: Registry) -> None:
    check(shop, "1.1.0", against="1.2.0")
    found = move(shop, "1.1.0", force=True)
    assert found == {"forced": True, "check": {"id": 1, "passed": True, "against": "1.2.0"}}
    assert shop.history("churn")[0].evidence == found
    check(shop, "1.2.0", against="1.1.0")
    assert "forced" not in (move(shop, "1.2.0", force=True) or {})


def test_a_check_that_fails_while_somebody_promotes_is_the_one_that_counts(
    shop: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found between the decision and the move would be overlooked if they were two steps."""
    check(shop, "1.1.0")
    aliases = Registry.aliases

    def late(registry: Registry, name: str) -> Any:
        found = aliases(registry, name)
        check(shop, "1.1.0", passed=False)
        return found

    monkeypatch.setattr(Registry, "aliases", late)
    with pytest.raises(FailedPrecondition, match="failed its last check"):
        move(shop, "1.1.0")


def test_who_is_champion_already_needs_no_check(shop: Registry) -> None:
    assert move(shop, "1.0.0") is None
    assert shop.history("churn")[0].action == "push"


def test_other_aliases_ask_for_none(shop: Registry) -> None:
    assert move(shop, "1.2.0", alias="challenger") is None
