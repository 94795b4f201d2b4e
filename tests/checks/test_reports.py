# Y1: a report as JUnit XML and as a page: all findings, nothing that runs, nothing of a name that is markup
from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import msgspec
import pytest
from tests.checks.subjects import checked, noisy, subject, truth

from keelway.checks.findings import Finding
from keelway.checks.gate import Report
from keelway.checks.junit import junit
from keelway.checks.page import page
from keelway.checks.words import lines, number

WEST = "[slices]\ncolumns = ['region']\n"


@pytest.fixture(scope="module")
def report() -> Report:
    broken = noisy(4.0, where=lambda frame: frame["region"] == "west")
    return checked(subject(broken, version="2.0.0"), plan=WEST, old=subject(truth))


def hostile(report: Report) -> Report:
    """The report with a slice whose name is markup, and a character that XML cannot hold."""
    finding = Finding(
        "champion", "x", "failed", "<b>&\0", "<script>alert(1)</script>\x1b", 1.0, 0.5, 1.5, 0.0, None, 9, 0.5
    )
    return msgspec.structs.replace(report, findings=(*report.findings, finding))


def test_junit_has_a_case_for_each_finding_and_counts_them(report: Report) -> None:
    suite = ET.fromstring(junit(report)).find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    assert len(cases) == len(report.findings) == int(suite.get("tests", "0"))
    failed = [case for case in cases if case.find("failure") is not None]
    assert len(failed) == int(suite.get("failures", "0")) >= report.count("failed")
    assert any("region=west" in case.get("name", "") for case in failed)
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties["outcome"] == "failed"
    assert properties["model_digest"] == report.model_digest


def test_what_has_to_be_proved_and_is_not_fails_in_ci_and_what_need_not_is_skipped(report: Report) -> None:
    for proof, tag in ((True, "failure"), (False, "skipped")):
        finding = Finding("metrics", "x", "inconclusive", p_value=0.5, proof=proof)
        case = ET.fromstring(junit(msgspec.structs.replace(report, findings=(finding,)))).find(".//testcase")
        assert case is not None
        assert case.find(tag) is not None


def test_hostile_names_are_text_in_both(report: Report) -> None:
    names = [case.get("name") for case in ET.fromstring(junit(hostile(report))).iter("testcase")]
    assert "x [<script>alert(1)</script>\ufffd]" in names
    assert "<script" not in page(hostile(report))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page(hostile(report))


class Elements(HTMLParser):
    """The elements of a page with their attributes, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_and_runs_nothing(report: Report) -> None:
    elements = Elements()
    elements.feed(page(hostile(report)))
    assert elements.open == []
    assert {tag for tag, _ in elements.seen} & {"script", "img", "link", "iframe", "a"} == set()
    assert not any(name.startswith("on") or name in ("src", "href") for _, held in elements.seen for name in held)
    assert "default-src 'none'" in page(report)
    assert "http" not in page(report).replace("http-equiv", "")


def test_the_page_draws_each_estimate_inside_its_axis(report: Report) -> None:
    elements = Elements()
    elements.feed(page(report))
    drawn = [held for tag, held in elements.seen if tag == "i"]
    estimates = [finding for finding in report.findings if finding.p_value is not None and finding.low is not None]
    assert sum(held["class"] == "dot" for held in drawn) == len(estimates) > 8
    places = [float(str(held["style"]).split("left:")[1].split("%")[0]) for held in drawn]
    assert all(0 <= place <= 100 for place in places)


def test_the_text_says_each_finding_and_with_what_probability_it_is_wrong(report: Report) -> None:
    text = "\n".join(lines(report))
    for finding in report.findings:
        assert finding.name in text
    assert "at most 5% of checks" in text
    assert "✗ roc_auc, difference [region=west]" in text


def test_numbers_have_no_exponents() -> None:
    assert [number(n) for n in (-1.5e-5, 0.00015, 0.02, 0.75463, 1234.6)] == ["0", "0.0001", "0.02", "0.7546", "1235"]
