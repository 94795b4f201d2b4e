# Y1, S4: the champion takes a version that has passed its last check, or force, which the history records
from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Keelway
from tests.cli.test_check import CHECK, pushed, shop

pytestmark = pytest.mark.usefixtures("in_one_process")

__all__ = ["pushed", "shop"]


@pytest.fixture
def equal(pushed: Path, keelway: Keelway) -> str:
    """1.2.0, the same model as 1.0.0, which is the champion."""
    from keelway.clock import SystemClock
    from keelway.registry.store import Registry

    registry = Registry.open(f"sqlite:///{pushed}/.keelway/registry.db", clock=SystemClock())
    digest = registry.get("buyers", "1.0.0").model_digest
    registry.push("buyers", "1.2.0", digest, who="ann", why="again")
    registry.close()
    return "buyers@1.2.0"


def champion(keelway: Keelway) -> str:
    return str(json.loads(keelway("models", "--json").out)["models"][0]["aliases"]["champion"])


def test_an_unchecked_version_does_not_become_champion(keelway: Keelway, equal: str) -> None:
    ran = keelway("promote", equal)
    assert ran.code == 1
    assert "was not checked" in ran.err
    assert f"keelway check {equal}" in ran.err
    assert champion(keelway) == "1.0.0"


def test_a_version_that_passed_becomes_champion_and_the_history_names_the_check(keelway: Keelway, equal: str) -> None:
    assert keelway("check", equal, *CHECK[2:], "--against", "champion").code == 0
    assert keelway("promote", equal).code == 0
    assert champion(keelway) == "1.2.0"
    moved, check, *_ = json.loads(keelway("show", "buyers", "--json").out)["history"]
    assert moved["evidence"] == {"check": {"id": check["evidence"]["check"], "passed": True, "against": "1.0.0"}}
    assert check["change"] == "check 1.2.0: passed"


def test_a_version_that_failed_does_not_but_by_force_and_the_history_says_so(keelway: Keelway, pushed: Path) -> None:
    assert keelway("check", "buyers@2.0.0", *CHECK[2:]).code != 0
    ran = keelway("promote", "buyers@2.0.0")
    assert ran.code == 1
    assert "check" in ran.err
    forced = keelway("promote", "buyers@2.0.0", "--force", "--why", "1.0.0 is down")
    assert forced.code == 0
    assert "no passing check stands behind it" in forced.err
    newest = json.loads(keelway("show", "buyers", "--json").out)["history"][0]
    assert newest["change"] == "champion: 1.0.0 → 2.0.0 (forced)"
    assert newest["evidence"]["forced"] is True


def test_only_the_last_check_counts(keelway: Keelway, equal: str, pushed: Path) -> None:
    assert keelway("check", equal, *CHECK[2:]).code == 0
    (pushed / "hard.toml").write_text("[metrics]\nroc_auc = 0.99\n")
    assert keelway("check", equal, *CHECK[2:], "--checks", "hard.toml").code == 1
    assert keelway("promote", equal).code == 1


def test_a_check_that_is_not_recorded_does_not_count(keelway: Keelway, equal: str) -> None:
    assert keelway("check", equal, *CHECK[2:], "--no-record").code == 0
    assert keelway("promote", equal).code == 1


def test_other_aliases_take_any_version(keelway: Keelway, equal: str) -> None:
    assert keelway("promote", equal, "--alias", "challenger").code == 0
