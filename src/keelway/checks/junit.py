"""A report as JUnit XML, which CI systems show: a test case for each finding. Pure: a report in, text out.

Failed findings are failures, and so is what has to be proved and could not be decided; what was not demanded, or not
checked, is skipped.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from keelway.checks.findings import Finding
from keelway.checks.gate import Report
from keelway.checks.words import evidence, title

#: What XML 1.0 cannot hold, not even escaped; names of columns may hold anything.
_FORBIDDEN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> str:
    """One ``testsuite``; attributes as the schema of JUnit 10 has them."""
    cases = [_case(report, finding) for finding in report.findings]
    failures = sum(case.find("failure") is not None for case in cases)
    skips = sum(case.find("skipped") is not None for case in cases)
    suite = ET.Element(
        "testsuite",
        name=f"keelway check {report.model}@{report.version}",
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        skipped=str(skips),
    )
    properties = ET.SubElement(suite, "properties")
    for name in ("outcome", "model_digest", "against", "rows", "sample", "alpha", "seed"):
        ET.SubElement(properties, "property", name=name, value=_text(str(getattr(report, name))))
    suite.extend(cases)
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _case(report: Report, finding: Finding) -> ET.Element:
    case = ET.Element("testcase", classname=f"{report.model}.{finding.family}", name=_text(title(finding)))
    said = _text(evidence(finding))
    if finding.verdict == "failed":
        ET.SubElement(case, "failure", message=said, type="failed")
    elif finding.verdict == "inconclusive" and finding.proof:
        ET.SubElement(case, "failure", message=f"could not be decided: {said}", type="inconclusive")
    elif finding.verdict in ("inconclusive", "skipped"):
        ET.SubElement(case, "skipped", message=said)
    else:
        ET.SubElement(case, "system-out").text = said
    return case


def _text(words: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", words)
