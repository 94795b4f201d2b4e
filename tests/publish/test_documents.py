"""Documents for other tools: CycloneDX by its schema, OpenLineage by the classes of its own library. # S5"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import attr
import cyclonedx.schema
import jsonschema_rs
import pytest
from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde

from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.artifacts.signing import Signature
from keelway.contract.signature import Feature, ModelSignature
from keelway.publish.bom import bill_of_materials
from keelway.publish.openlineage import run_event
from keelway.registry.models import ModelVersion
from keelway.types import TensorSpec

SIGNATURE = ModelSignature(
    (Feature("age", "FP32"), Feature("town", "BYTES", nullable=True)),
    (TensorSpec("numbers", "FP32", (-1, 1), ("age",)), TensorSpec("town", "BYTES", (-1,))),
    (TensorSpec("label", "INT64", (-1,)),),
    "classification",
)
MODEL = Manifest((FileEntry("model.onnx", "a" * 64, 10), FileEntry("sub/weights", "b" * 64, 20)), SIGNATURE, "onnx")
LINEAGE = {
    "code": {"revision": "c" * 40, "dirty": True},
    "lockfile": {"path": "pdm.lock", "sha256": "d" * 64, "size": 3},
    "data": {"sha256": "e" * 64, "size": 4},
    "source": {"sha256": "f" * 64, "size": 5},
    "libraries": {"python": "3.11.7", "numpy": "2.2.0", "scikit-learn": "1.9.1"},
    "seed": 42,
    "parameters": {"depth": 6, "bootstrap": True},
    "metrics": {"auc": 0.91},
    "notes": {"ticket": "ML-7"},
}
KEY_ID = "ed25519:" + "0" * 32


def version(manifest: Manifest = MODEL, lineage: dict[str, Any] | None = None) -> ModelVersion:
    metadata = {} if lineage is None else {"lineage": lineage}
    return ModelVersion("leads", "1.2.0", manifest.digest, 1_790_000_000.5, "ann", "available", {}, None, metadata)


PIPELINE = Manifest((), SIGNATURE, "pipeline", {"steps": [{"name": "a", "model_digest": MODEL.digest, "inputs": {}}]})
CASES = {
    "with everything": (MODEL, LINEAGE, {}),
    "without lineage": (MODEL, None, {}),
    "with an empty one": (MODEL, {}, {}),
    "a pipeline": (PIPELINE, LINEAGE, {MODEL.digest: MODEL}),
}


@cache
def cyclonedx_schema(edition: str) -> jsonschema_rs.Validator:
    """The schema as CycloneDX's own library brings it, formats included, with those that it refers to."""
    folder = Path(cyclonedx.schema.__file__).parent / "_res"

    def read(name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text())
        return document

    others = ("spdx", "jsf-0.82", "cryptography-defs")
    registry = jsonschema_rs.Registry(
        [(f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", read(name)) for name in others]
    )
    return jsonschema_rs.Draft7Validator(read(f"bom-{edition}"), registry=registry, validate_formats=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("edition", ["1.6", "1.7"])
def test_a_bill_of_materials_is_valid_cyclonedx(case: str, edition: str) -> None:
    manifest, lineage, members = CASES[case]
    document = bill_of_materials(version(manifest, lineage), manifest, members, [Signature(KEY_ID, b"")])
    document = json.loads(json.dumps(document)) | {"specVersion": edition}
    cyclonedx_schema(edition).validate(document)
    references = [component["bom-ref"] for component in document["components"]]
    references.append(document["metadata"]["component"]["bom-ref"])
    assert len(references) == len(set(references))
    for entry in document["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= set(references)
    with pytest.raises(jsonschema_rs.ValidationError):
        cyclonedx_schema(edition).validate(document | {"serialNumber": "1"})


def test_a_bill_of_materials_says_what_is_known() -> None:
    document = bill_of_materials(version(MODEL, LINEAGE), MODEL, {}, [Signature(KEY_ID, b"")])
    model = document["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "leads", "1.2.0")
    assert model["hashes"] == [{"alg": "SHA-256", "content": MODEL.digest.removeprefix("sha256:")}]
    assert [file["hashes"][0]["content"] for file in model["components"]] == ["a" * 64, "b" * 64]
    card = model["modelCard"]
    assert card["modelParameters"]["task"] == "classification"
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [{"type": "auc", "value": "0.91"}]
    properties = {entry["name"]: entry["value"] for entry in model["properties"]}
    assert properties["keelway:code:revision"] == "c" * 40
    assert properties["keelway:code:dirty"] == "true"
    assert properties["keelway:signed_by"] == KEY_ID
    assert "pkg:pypi/numpy@2.2.0" in [component["bom-ref"] for component in document["components"]]


def test_a_pipeline_depends_on_its_members() -> None:
    document = bill_of_materials(version(PIPELINE), PIPELINE, {MODEL.digest: MODEL}, [])
    assert document["dependencies"][0] == {"ref": PIPELINE.digest, "dependsOn": [MODEL.digest]}
    assert document["components"][0]["bom-ref"] == MODEL.digest


def test_the_same_version_gives_the_same_documents() -> None:
    first, again = (bill_of_materials(version(MODEL, LINEAGE), MODEL, {}, []) for _ in range(2))
    assert first == again
    assert run_event(version(MODEL, LINEAGE), MODEL) == run_event(version(MODEL, LINEAGE), MODEL)


@pytest.mark.parametrize("lineage", [LINEAGE, {}, None])
def test_a_run_event_is_one_of_openlineage(lineage: dict[str, Any] | None) -> None:
    document = json.loads(json.dumps(run_event(version(MODEL, lineage), MODEL, "registry.example")))
    event = event_v2.RunEvent(
        eventTime=document["eventTime"],
        producer=document["producer"],
        eventType=event_v2.RunState(document["eventType"]),
        run=event_v2.Run(document["run"]["runId"], facets(document["run"]["facets"])),
        job=event_v2.Job(document["job"]["namespace"], document["job"]["name"], facets(document["job"]["facets"])),
        inputs=[dataset(event_v2.InputDataset, found) for found in document["inputs"]],
        outputs=[dataset(event_v2.OutputDataset, found) for found in document["outputs"]],
    )
    assert pruned(json.loads(Serde.to_json(event))) == pruned(document)


def dataset(kind: Any, document: dict[str, Any]) -> Any:
    return kind(document["namespace"], document["name"], facets=facets(document["facets"]))


def facets(documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each facet as the class of the library that its schema names, which knows its fields and the schema's address."""
    return {key: _facet(document) for key, document in documents.items()}


def _facet(document: dict[str, Any]) -> Any:
    name = document["_schemaURL"].rpartition("/")[2]
    modules = [import_module(f"{facet_v2.__name__.replace('facet_v2', 'generated')}.{module}") for module in MODULES]
    (module,) = [module for module in modules if hasattr(module, name)]
    kind = getattr(module, name)
    fields = {field.name for field in attr.fields(kind) if field.init}
    given = {key: value for key, value in document.items() if not key.startswith("_")}
    assert given.keys() <= fields
    made = kind(**given, producer=document["_producer"])
    assert made._schemaURL == document["_schemaURL"]
    return made


MODULES = (
    "dataset_version_dataset",
    "job_type_job",
    "processing_engine_run",
    "schema_dataset",
    "source_code_location_job",
    "tags_run",
)


def pruned(value: Any) -> Any:
    """Without what is empty: the library leaves it out, or writes it, as it pleases."""
    if isinstance(value, dict):
        kept = {key: pruned(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, {}, [])}
    return [pruned(item) for item in value] if isinstance(value, list) else value


def test_a_run_event_says_what_is_known_and_no_address_of_a_repository() -> None:
    document = run_event(version(MODEL, LINEAGE), MODEL)
    assert document["job"]["facets"]["sourceCodeLocation"]["url"] == f"swh:1:rev:{'c' * 40}"
    sample, source = document["inputs"]
    assert (sample["name"], source["name"]) == ("leads/sample", "leads/trained_file")
    assert [field["name"] for field in sample["facets"]["schema"]["fields"]] == ["age", "town"]
    tags = {tag["key"]: tag["value"] for tag in document["run"]["facets"]["tags"]["tags"]}
    assert (tags["seed"], tags["metric.auc"], tags["code.dirty"]) == ("42", "0.91", "true")
    assert document["outputs"][0]["facets"]["version"]["datasetVersion"] == f"1.2.0 {MODEL.digest}"
