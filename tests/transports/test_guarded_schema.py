"""Requests made from the OpenAPI document of a server that asks for credentials, with a key, with one that does not
hold and with none: nothing fails, and what is answered is what the document says. # U1 R3"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.credentials import KEYS, Keys
from tests.serving import Server, Shelf, score

#: Others are the business of ``tests/hostility/test_schema.py``.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["a key", "a key that does not hold", "nothing"])
def test_the_openapi_document_of_a_guarded_server(tmp_path: Path, shown: str) -> None:
    keys = Keys()
    key = keys.add("all", "predict:*")
    headers = {
        "a key": ["--header", f"X-API-Key: {key}"],
        "a key that does not hold": ["--header", "Authorization: Bearer kw_none_at_all"],
        "nothing": [],
    }[shown]
    with Server(Shelf().serve("m", score), keys=keys, auth={**KEYS, "max_failures": 1_000_000}) as server:
        (tmp_path / "openapi.json").write_bytes(server.get("/openapi.json", **{"X-API-Key": key}).body)
        program = Path(sys.executable).with_name("schemathesis")
        command = [program, "run", "openapi.json", "--url", server.url, "--checks", CHECKS, *headers]
        command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1", "--warnings", "off"]
        command += ["--generation-deterministic", "--continue-on-failure", "--suppress-health-check", "all"]
        command += ["--report", "json,ndjson", "--report-json-path", "run.json"]
        command += ["--report-ndjson-path", "events.ndjson"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["failures"], run["errors"]) == ([], []), done.stdout[-8000:]
    codes: Counter[int] = Counter()
    for line in (tmp_path / "events.ndjson").read_text().splitlines():
        scenario = json.loads(line).get("ScenarioFinished") or {"recorder": {}}
        for one in scenario["recorder"].get("interactions", {}).values():
            codes[one["response"]["status_code"]] += 1
    print(dict(codes))
    assert not [code for code in codes if code >= 500]
    assert codes[200] > 0, "probes are open"
    # With a key there are 401 too: the document says which credentials there are, and others are made up beside it.
    assert codes[401] > 100
    assert (codes[400] > 0) is (shown == "a key"), "only who is let in hears what is wrong with a body"
