"""Requests made from the OpenAPI document, right and wrong, and every reply held against it. # R3 R4

schemathesis makes them: the document's own examples, its boundary values one by one, and random ones. A real client
of it is run as people run it, as a program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.hostility.attack import Attack
from tests.hostility.served import Attacked
from tests.serving import ask

#: ``positive_data_acceptance`` is left out: declared categories, matching shapes and the like are no schema's business.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
#: Numbers, words and categories, no batch axis; the server's own routes. ``m`` and others have the types of ``iris``.
PATHS = r"^/(v[12]/models/({models})\b|v[12]/?(models)?$|v2/(health|repository)|health|ping)"


def document(server: Attacked) -> dict[str, Any]:
    """The server's, but for the shapes of outputs: schemathesis 4.32 spells ``prefixItems`` as an older JSON Schema
    does before it checks a reply, and then refuses its own spelling. ``test_openapi`` checks those shapes."""
    described: dict[str, Any] = ask(server.url + "/openapi.json", "GET").json
    for name, schema in described["components"]["schemas"].items():
        if name.endswith(".Outputs"):
            for tensor in schema["properties"]["outputs"]["items"]["anyOf"]:
                del tensor["properties"]["shape"]["prefixItems"]
    return described


@pytest.mark.parametrize(
    ("models", "examples"),
    [pytest.param("orders", 1, id="quick"), pytest.param("iris|orders|fixed", 60, id="long", marks=pytest.mark.slow)],
)
def test_the_openapi_document(attack: Attack, attacked: Attacked, tmp_path: Path, models: str, examples: int) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(document(attacked)))
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "run", "openapi.json", "--url", attacked.url, "--checks", ",".join(CHECKS)]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)]
    command += ["--generation-deterministic", "--seed", "1", "--continue-on-failure", "--warnings", "off"]
    command += [
        "--include-path-regex",
        PATHS.format(models=models),
        "--suppress-health-check",
        "all",
        "--request-timeout",
        "20",
    ]
    command += ["--report", "json,ndjson", "--report-json-path", "run.json", "--report-ndjson-path", "events.ndjson"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
    run = json.loads((tmp_path / "run.json").read_text())
    per_operation = count(attack, tmp_path / "events.ndjson")
    for label, requests in sorted(per_operation.items()):
        print(f"{requests:6,} {label}")
    assert (run["failures"], run["errors"]) == ([], []), done.stdout[-8000:]
    assert done.returncode == 0, done.stdout[-8000:]
    assert run["operations"]["tested"] == run["operations"]["selected"] >= 20
    assert min(per_operation.values()) >= 2


def count(attack: Attack, events: Path) -> Counter[str]:
    """Requests per operation, from the events of a run; all of them and their answers go into the totals."""
    per_operation: Counter[str] = Counter()
    with events.open() as lines:
        for line in lines:
            scenario = json.loads(line).get("ScenarioFinished")
            if scenario is None:
                continue
            recorder = scenario["recorder"]
            replies = [one["response"] for one in recorder.get("interactions", {}).values() if one["response"]]
            attack.count(requests=len(replies))
            attack.answered(*(str(reply["status_code"]) for reply in replies))
            per_operation[recorder["label"]] += len(replies)
    return per_operation
