"""A report as one HTML page that needs nothing else: no script, no font, no address. Pure: a report in, text out.

Estimates of one metric share an axis, the whole above its slices: a forest plot. Positions are percentages, so that it
fits a desk and a phone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from keelway.checks.findings import Finding
from keelway.checks.gate import Report
from keelway.checks.page_style import STYLE
from keelway.checks.words import CONCLUSIONS, MARKS, assurance, bounds, counts, number, remarks, title

_HEAD = (
    '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
)
_WORDS = {
    "passed": "passed",
    "failed": "failed",
    "inconclusive": "could not be decided",
    "skipped": "not checked",
}
_FAMILIES = {
    "contract": "Contract",
    "metrics": "Metrics",
    "champion": "Against the other version",
    "calibration": "Calibration",
    "robustness": "Robustness",
    "expectations": "Expectations",
    "budgets": "Budgets, on the machine that checked",
    "leakage": "Smells of leakage",
    "skew": "Training and serving",
}


def page(report: Report) -> str:
    """The whole document."""
    name = escape(f"{report.model} {report.version}")
    parts = [_HEAD, f"<title>{name}: {_WORDS[report.outcome]}</title>\n<style>{STYLE}</style>\n<main>\n"]
    parts += _header(report, name)
    for family, findings in groupby(report.findings, key=lambda finding: finding.family):
        done = [finding for finding in findings if finding.verdict != "skipped"]
        if done:
            parts.append(f"<section>\n<h2>{_FAMILIES[family]}</h2>\n")
            parts += _family(done)
            parts.append("</section>\n")
    parts += _skipped([finding for finding in report.findings if finding.verdict == "skipped"])
    parts.append(f"<footer>A dashed line is a bound. {escape(assurance(report))}.</footer>\n</main>\n</html>\n")
    return "".join(parts)


def _header(report: Report, name: str) -> Iterator[str]:
    yield f'<header class="{report.outcome}">\n<h1>{name}</h1>\n'
    yield f'<p class="outcome">{MARKS[report.outcome]} {escape(CONCLUSIONS[report.outcome])}</p>\n'
    stopped = [f for f in report.findings if f.verdict == "failed"]
    stopped = stopped or [f for f in report.findings if f.verdict == "inconclusive" and f.proof]
    if stopped:
        yield f"<ul>{''.join(f'<li>{escape(title(finding))}</li>' for finding in stopped)}</ul>\n"
    against = f"against {escape(report.against)}, " if report.against else ""
    yield f"<p>{against}on {report.rows:,} rows: {counts(report)}</p>\n"
    yield f'<p class="digest">{escape(report.model_digest)}</p>\n</header>\n'


def _family(findings: Sequence[Finding]) -> Iterator[str]:
    """Facts as they come; estimates of one name together, where the first of them stands."""
    drawn: set[str] = set()
    for finding in findings:
        if finding.p_value is None or finding.low is None or finding.high is None:
            yield _line(finding)
        elif finding.name not in drawn:
            drawn.add(finding.name)
            yield from _forest([f for f in findings if f.name == finding.name and f.low is not None])


def _line(finding: Finding) -> str:
    name, said = escape(title(finding)), escape(finding.said)
    return f'<div class="fact {finding.verdict}">{_mark(finding)}<b>{name}</b><span>{said}</span></div>\n'


def _forest(findings: Sequence[Finding]) -> Iterator[str]:
    """One axis, and a row for each estimate on it."""
    low, high = _axis(findings)
    yield f"<figure>\n<figcaption>{escape(findings[0].name)}</figcaption>\n"
    for finding in findings:
        yield _row(finding, low, high)
    yield f'<div class="axis"><span>{number(low)}</span><span>{number(high)}</span></div>\n'
    for said in dict.fromkeys(finding.said for finding in findings if finding.said):
        yield f"<p>{escape(said)}</p>\n"
    yield "</figure>\n"


def _row(finding: Finding, low: float, high: float) -> str:
    def place(value: float | None) -> float:
        return 100 * (min(max(value or 0.0, low), high) - low) / (high - low)

    start, end = place(finding.low), place(finding.high)
    ticks = "".join(
        f'<i class="bound" style="left:{place(bound):.2f}%"></i>'
        for bound in (finding.at_least, finding.at_most)
        if bound is not None
    )
    figures = f"{number(finding.figure or 0.0)} ({number(finding.low or 0.0)} to {number(finding.high or 0.0)})"
    words = escape("; ".join([bounds(finding), *remarks(finding)]))
    return (
        f'<div class="row {finding.verdict}">{_mark(finding)}'
        f'<span class="name">{escape(finding.slice or "all rows")}<small>{finding.rows:,} rows</small></span>'
        f'<span class="track">{ticks}<i class="span" style="left:{start:.2f}%;width:{max(end - start, 0.4):.2f}%"></i>'
        f'<i class="dot" style="left:{place(finding.figure):.2f}%"></i></span>'
        f'<span class="figures">{figures}<small>{words}</small></span></div>\n'
    )


def _axis(findings: Sequence[Finding]) -> tuple[float, float]:
    values = [
        value
        for finding in findings
        for value in (finding.low, finding.high, finding.figure, finding.at_least, finding.at_most)
        if value is not None
    ]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.06
    return low - room, high + room


def _mark(finding: Finding) -> str:
    return f'<span class="mark" title="{_WORDS[finding.verdict]}">{MARKS[finding.verdict]}</span>'


def _skipped(findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        return
    yield "<section>\n<h2>Not checked</h2>\n"
    for finding in findings:
        yield _line(finding)
    yield "</section>\n"
