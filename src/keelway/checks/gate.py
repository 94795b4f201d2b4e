"""The gate: runs every family over a case, and says whether the version may go live.

Both errors have a stated probability, ``alpha`` (0.05 unless declared):

- *A good version fails.* A version that keeps every bound fails by chance with probability ``alpha`` at most, however
  many metrics, slices and features were looked at: estimates fail by Holm's procedure over all of them.
- *A bad version passes.* One that breaks a bound which has to be proved passes with probability ``alpha`` at most:
  every such bound has to be proved at ``alpha``, and all of them have to be (R. L. Berger, "Multiparameter hypothesis
  testing and acceptance sampling", Technometrics 24 (1982), 295-300), which needs no correction.

Between the two it is *inconclusive*: the rows are too few to say. Facts, such as a count of refused rows, are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec

from keelway.checks import budgets, calibration, champion, contract, expectations, leakage, metrics, robustness, skew
from keelway.checks.case import Case
from keelway.checks.findings import Finding
from keelway.clock import Clock
from keelway.statistics.multiplicity import holm

Outcome = Literal["passed", "failed", "inconclusive"]
Progress = Callable[[str], None]

FAMILIES = (
    "contract",
    "metrics",
    "champion",
    "calibration",
    "robustness",
    "expectations",
    "budgets",
    "leakage",
    "skew",
)


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found of one version. ``against`` is the version it was compared with, empty for none; ``rows`` are
    those of the sample, and ``sample`` says which it was: ``sha256:`` and the digest of the file. It was held to the
    policy of ``policy_revision``."""

    model: str
    version: str
    model_digest: str
    outcome: Outcome
    alpha: float
    seed: int
    rows: int
    findings: tuple[Finding, ...]
    against: str = ""
    target: str = ""
    sample: str = ""
    policy_revision: int = 0

    def count(self, verdict: str) -> int:
        return sum(finding.verdict == verdict for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


def check(case: Case, clock: Clock, *, sample: str = "", progress: Progress = lambda message: None) -> Report:
    """Run every family. Raises ``InvalidInput`` where the sample or the plan does not fit the version."""
    findings: list[Finding] = []
    for name, family in _families(clock):
        progress(f"checking: {name}")
        findings += family(case)
    decided = decide(_demanded(case, findings), case.plan.alpha)
    subject = case.subject
    return Report(
        subject.name,
        subject.version,
        subject.model_digest,
        outcome(decided),
        case.plan.alpha,
        case.plan.seed,
        len(case.frame),
        tuple(decided),
        "" if case.champion is None else case.champion.version,
        case.target,
        sample,
        subject.policy_revision,
    )


def _families(clock: Clock) -> Sequence[tuple[str, Callable[[Case], Iterable[Finding]]]]:
    modules = (contract, metrics, champion, calibration, robustness, expectations)
    return (
        *((module.FAMILY, module.check) for module in modules),
        (budgets.FAMILY, lambda case: budgets.check(case, clock)),
        (leakage.FAMILY, leakage.check),
        (skew.FAMILY, skew.check),
    )


def _demanded(case: Case, findings: Sequence[Finding]) -> Sequence[Finding]:
    """``findings``; without a truth, what was asked for all the same is not passed over but undecided."""
    if case.scored is not None:
        return findings
    asked = case.plan.declared | ({champion.FAMILY} if case.champion is not None else set())
    if "slices" in asked:
        asked |= {metrics.FAMILY}
    return [
        msgspec.structs.replace(finding, verdict="inconclusive", proof=True)
        if finding.verdict == "skipped" and finding.family in asked
        else finding
        for finding in findings
    ]


def decide(findings: Sequence[Finding], alpha: float) -> list[Finding]:
    """``findings`` with those failed whose bounds are broken beyond chance, all tests taken together."""
    tested = [place for place, finding in enumerate(findings) if finding.p_value is not None]
    adjusted = holm([findings[place].p_value or 0.0 for place in tested])
    broken = {place for place, value in zip(tested, adjusted, strict=True) if value <= alpha}
    return [
        msgspec.structs.replace(finding, verdict="failed") if place in broken else finding
        for place, finding in enumerate(findings)
    ]


def outcome(findings: Sequence[Finding]) -> Outcome:
    if any(finding.verdict == "failed" for finding in findings):
        return "failed"
    if any(finding.verdict == "inconclusive" and finding.proof for finding in findings):
        return "inconclusive"
    return "passed"
