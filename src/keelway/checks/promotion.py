"""Promotion: which version may become the champion. The command line calls it; so may whatever else moves aliases."""

from __future__ import annotations

from typing import Any, NamedTuple

from keelway.errors import FailedPrecondition
from keelway.registry.models import CHAMPION, Alias, CheckRecord
from keelway.registry.store import Registry


class Promoted(NamedTuple):
    """Where the alias points, where it did before, and what the history holds as evidence."""

    alias: Alias
    before: str | None
    evidence: dict[str, Any] | None


def promote(
    registry: Registry, name: str, version: str, *, alias: str = CHAMPION, force: bool = False, who: str, why: str
) -> Promoted:
    """Point ``alias`` to ``version``. The champion takes a version whose last check has passed, or ``force``, and the
    history says which; other aliases take any.

    Raises ``FailedPrecondition`` for a version that was not checked, or has not passed; as ``Registry.set_alias``."""
    before = {known.alias: known.version for known in registry.aliases(name)}.get(alias)
    evidence = None
    if alias == CHAMPION and before != version:
        last = registry.last_check(name, version)
        if not force:
            _demand(last, name, version)
        evidence = _evidence(last, forced=force and (last is None or not last.passed))
    moved = registry.set_alias(name, alias, version, who=who, why=why, expected_from=before, evidence=evidence)
    return Promoted(moved, before, evidence)


def _demand(last: CheckRecord | None, name: str, version: str) -> None:
    command = f"keelway check {name}@{version} --sample TEST --target COLUMN"
    if last is None:
        raise FailedPrecondition("the version was not checked", field="version", hint=f"{command}; or say --force")
    if not last.passed:
        found = "failed its last check" if last.document.get("outcome") == "failed" else "has passed no check yet"
        raise FailedPrecondition(f"the version {found}", field="version", hint=f"{command}; or say --force")


def _evidence(last: CheckRecord | None, *, forced: bool) -> dict[str, Any]:
    """What the promotion rests on; ``forced`` only where it rests on nothing else."""
    evidence: dict[str, Any] = {"forced": True} if forced else {}
    if last is not None:
        evidence["check"] = {"id": last.id, "passed": last.passed, "against": last.against}
    return evidence
