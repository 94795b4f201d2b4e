"""``keelway bom`` and ``keelway lineage`` print documents of what was pushed. # S5"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Keelway
from tests.publish.test_documents import cyclonedx_schema

pytestmark = pytest.mark.usefixtures("in_one_process")


def test_both_documents_tell_of_the_version(keelway: Keelway, trained: Path) -> None:
    push = ("push", "leads", "model.joblib", "--sample", "sample.csv", "--target", "bought", "--trust-pickle")
    digest = json.loads(keelway(*push, "--lineage", "metric.auc=0.9", "--json").out)["model_digest"]
    ran = keelway("bom", "leads@1.0.0")
    assert ran.code == 0
    bom = json.loads(ran.out)
    cyclonedx_schema("1.6").validate(bom)
    assert bom["metadata"]["component"]["bom-ref"] == digest
    ran = keelway("lineage", "leads", "--namespace", "registry.example")
    event = json.loads(ran.out)
    assert (ran.code, event["eventType"], event["job"]["namespace"]) == (0, "COMPLETE", "registry.example")
    assert digest in event["outputs"][0]["facets"]["version"]["datasetVersion"]


def test_the_bill_of_a_pipeline_names_its_members(keelway: Keelway, trained: Path) -> None:
    push = ("push", "leads", "model.joblib", "--sample", "sample.csv", "--target", "bought", "--trust-pickle")
    digest = json.loads(keelway(*push, "--json").out)["model_digest"]
    (trained / "whole.toml").write_text(
        '[[step]]\nname = "m"\nmodel = "leads"\ninputs = { input = "rows" }\n[outputs]\nlabel = "m.label"\n'
    )
    assert keelway("push", "whole", "whole.toml").code == 0
    bom = json.loads(keelway("bom", "whole").out)
    cyclonedx_schema("1.6").validate(bom)
    assert bom["components"][0]["bom-ref"] == digest


def test_what_is_not_there_is_said_in_one_line(keelway: Keelway) -> None:
    for command in ("bom", "lineage"):
        ran = keelway(command, "leads")
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert json.loads(keelway(command, "leads", "--json").err)["error"]["code"] == "NOT_FOUND"
