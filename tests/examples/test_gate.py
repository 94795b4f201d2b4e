# Y1: on the lead-scoring example a good model passes, and each kind of bad one fails in the family it has to
from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from keelway.checks.plan import parse_plan

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "lead_scoring"


def test_the_declared_checks_can_be_read() -> None:
    plan = parse_plan((EXAMPLE / "checks.toml").read_text())
    assert plan.declared == set(tomllib.loads((EXAMPLE / "checks.toml").read_text()))
    assert plan.slices.columns == ("MOSHOOFD",)


@pytest.mark.slow
def test_only_the_good_model_may_go_live() -> None:
    ran = subprocess.run(
        [sys.executable, EXAMPLE / "gate.py"], cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    outcomes = {line.split()[0] for line in ran.stdout.splitlines() if line.endswith(("exit code 0", "exit code 1"))}
    assert outcomes == {"passed,", "failed,"}
    for version in ("1.1.0", "1.2.0", "1.3.0", "1.4.0", "2.0.0"):
        suite = ET.parse(ROOT / ".cache" / "gate" / f"{version}.xml").getroot()[0]
        assert (suite.get("failures") == "0") == (version == "1.1.0")
        assert "</html>" in (ROOT / ".cache" / "gate" / f"{version}.html").read_text()
