# Y1, S4: a check belongs to one version and digest, and the history holds it fast
from __future__ import annotations

import pytest

from keelway.errors import FailedPrecondition, NotFound
from keelway.registry.evidence import digest
from keelway.registry.store import Registry

DIGEST, OTHER = "sha256:" + "0" * 64, "sha256:" + "1" * 64
REPORT = {"outcome": "passed", "findings": []}


def record(registry: Registry, version: str = "1.0.0", *, passed: bool = True, digest: str = DIGEST) -> int:
    made = registry.record_check(
        "churn", version, model_digest=digest, passed=passed, document=REPORT, against="0.9.0", who="ann", why="ci"
    )
    return made.id


def test_the_last_check_of_a_version_is_found_again(registry: Registry) -> None:
    registry.push("churn", None, DIGEST, who="ann", why="x")
    registry.push("churn", None, OTHER, who="ann", why="x")
    assert registry.last_check("churn", "1.0.0") is None
    record(registry)
    newest = record(registry, passed=False)
    found = registry.last_check("churn", "1.0.0")
    assert found is not None
    assert (found.id, found.passed, found.against, found.who, found.document) == (newest, False, "0.9.0", "ann", REPORT)
    assert registry.last_check("churn", "1.1.0") is None


def test_the_history_binds_the_check_by_its_digest(registry: Registry) -> None:
    registry.push("churn", None, DIGEST, who="ann", why="x")
    before = registry.state_token()
    number = record(registry)
    entry = registry.history("churn")[0]
    assert (entry.action, entry.version, entry.why) == ("check", "1.0.0", "ci")
    assert entry.evidence == {
        "check": number,
        "passed": True,
        "model_digest": DIGEST,
        "against": "0.9.0",
        "document": digest({"findings": [], "outcome": "passed"}),
    }
    assert registry.state_token() > before


def test_a_check_of_another_digest_is_refused(registry: Registry) -> None:
    registry.push("churn", None, DIGEST, who="ann", why="x")
    with pytest.raises(FailedPrecondition, match="not what is registered"):
        record(registry, digest=OTHER)
    with pytest.raises(NotFound):
        record(registry, version="2.0.0")
    assert registry.last_check("churn", "1.0.0") is None
    assert registry.history("churn")[0].action == "alias"
