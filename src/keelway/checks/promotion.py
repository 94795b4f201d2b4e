"""Promotion: which version may become the champion. The command line calls it; so may whatever else moves aliases."""

from __future__ import annotations

from typing import Any, NamedTuple

from keelway.contract.constraints import Policy
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
    """Point ``alias`` to ``version``. The champion takes a version whose last check has passed and holds still, or
    ``force``, and the history says which; other aliases take any.

    Raises ``FailedPrecondition`` for a version that was not checked, has not passed, or was checked beside another
    champion or under another policy than there is now; as ``Registry.set_alias``."""
    before = {known.alias: known.version for known in registry.aliases(name)}.get(alias)
    evidence: dict[str, Any] = {}

    def decide(last: CheckRecord | None, policy: Policy) -> dict[str, Any]:
        lacking = _lacking(last, policy, before)
        if lacking and not force:
            command = f"keelway check {name}@{version} --sample TEST --target COLUMN"
            raise FailedPrecondition(lacking, field="version", hint=f"{command}; or say --force")
        evidence.update(_evidence(last, forced=bool(lacking)))
        return evidence

    decides = decide if alias == CHAMPION else None
    moved = registry.set_alias(name, alias, version, who=who, why=why, expected_from=before, decide=decides)
    return Promoted(moved, before, evidence or None)


def _lacking(last: CheckRecord | None, policy: Policy, champion: str | None) -> str:
    """Why ``last`` is not enough to take the place of ``champion``; empty if it is."""
    if last is None:
        return "the version was not checked"
    if not last.passed:
        failed = last.document.get("outcome") == "failed"
        return f"the version {'failed its last check' if failed else 'has passed no check yet'}"
    if last.against is not None and last.against != champion:
        return f"its check compared it with {last.against}, and the champion is {champion or 'nothing'} now"
    # Checks of before do not say it.
    if last.document.get("policy_revision", policy.revision) != policy.revision:
        return "its policy was changed since it was checked"
    return ""


def _evidence(last: CheckRecord | None, *, forced: bool) -> dict[str, Any]:
    """What the promotion rests on; ``forced`` only where it rests on nothing else."""
    evidence: dict[str, Any] = {"forced": True} if forced else {}
    if last is not None:
        evidence["check"] = {"id": last.id, "passed": last.passed, "against": last.against}
    return evidence
