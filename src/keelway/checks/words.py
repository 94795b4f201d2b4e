"""A report in words: lines for a terminal, and the parts that the JUnit and HTML files share. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from keelway.checks.findings import Finding
from keelway.checks.gate import Report

MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?", "skipped": "-"}

CONCLUSIONS = {
    "passed": "passed: every bound that has to be proved is proved, and nothing has failed",
    "failed": "failed",
    "inconclusive": "could not be decided: nothing has failed, but these rows do not prove every bound",
}


def lines(report: Report) -> Iterator[str]:
    """What a terminal shows."""
    against = f" against {report.against}" if report.against else ""
    yield f"{report.model} {report.version}{against}: {report.rows:,} rows, seed {report.seed}"
    family = ""
    for finding in report.findings:
        if finding.family != family:
            family = finding.family
            yield family
        yield f"  {MARKS[finding.verdict]} {title(finding)}: {evidence(finding)}"
    yield counts(report)
    yield CONCLUSIONS[report.outcome]
    yield assurance(report)


def title(finding: Finding) -> str:
    return f"{finding.name} [{finding.slice}]" if finding.slice else finding.name


def evidence(finding: Finding) -> str:
    """The figure, its interval, the bound, the number of rows, and what else is to be said."""
    parts = []
    if finding.p_value is not None and finding.figure is not None:
        parts.append(f"{number(finding.figure)}{_interval(finding)}, {bounds(finding)}, {finding.rows:,} rows")
    elif finding.rows and finding.verdict == "inconclusive":
        parts.append(f"{finding.rows:,} rows")
    if finding.said:
        parts.append(finding.said)
    return "; ".join([*parts, *remarks(finding)])


def remarks(finding: Finding) -> list[str]:
    """Why what could not be decided was not, or does not matter."""
    if finding.verdict != "inconclusive":
        return []
    words = [] if finding.proof else ["not demanded"]
    below = finding.at_least is not None and finding.high is not None and finding.high < finding.at_least
    above = finding.at_most is not None and finding.low is not None and finding.low > finding.at_most
    if below or above:
        words.append("beyond its bound, though among so many tests perhaps by chance")
    return words


def bounds(finding: Finding) -> str:
    words = []
    if finding.at_least is not None:
        words.append(f"at least {number(finding.at_least)}")
    if finding.at_most is not None:
        words.append(f"at most {number(finding.at_most)}")
    return " and ".join(words)


def number(value: float) -> str:
    """Four digits, or four decimals of what is small: nobody compares exponents."""
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 0.001 else f"{round(value, 4) + 0.0:.4f}".rstrip("0").rstrip(".")


def counts(report: Report) -> str:
    """How many passed, failed, could not be decided, were not checked."""
    words = {"passed": "passed", "failed": "failed", "inconclusive": "not decided", "skipped": "not checked"}
    return ", ".join(f"{report.count(verdict)} {word}" for verdict, word in words.items())


def assurance(report: Report) -> str:
    """With what probability the report is wrong."""
    level = 1 - 2 * report.alpha
    return (
        f"intervals of {level:.0%}; a version that keeps every bound fails in at most {report.alpha:.0%} of checks, "
        f"and one that breaks a bound which has to be proved passes in at most {report.alpha:.0%}"
    )


def _interval(finding: Finding) -> str:
    if finding.low is None or finding.high is None:
        return ""
    return f" ({number(finding.low)} to {number(finding.high)})"
