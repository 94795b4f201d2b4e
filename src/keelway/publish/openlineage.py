"""The push of a version as a run event of OpenLineage: which data and code it was made of, and what came out.

Source: https://openlineage.io/spec/2-0-2/OpenLineage.json, and the schemas that each facet names. Nothing is sent
anywhere: whoever has a collector posts the document to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from keelway import __version__
from keelway.artifacts.manifest import Manifest
from keelway.clock import rfc3339
from keelway.registry.models import ModelVersion

SCHEMA: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER: Final = f"pkg:pypi/keelway@{__version__}"
NAMESPACE: Final = "keelway"

_FACETS: Final = "https://openlineage.io/spec/facets"


def run_event(version: ModelVersion, manifest: Manifest, namespace: str = NAMESPACE) -> dict[str, Any]:
    """The event, as JSON values; the same for the same version. ``namespace`` is where its names are unique: a
    registry's."""
    lineage = version.metadata.get("lineage", {})
    identity = f"keelway:{namespace}:{version.model}@{version.version}:{version.model_digest}"
    features = [{"name": feature.name, "type": feature.datatype} for feature in manifest.signature.features]
    schema = {"schema": _facet("1-2-0", "SchemaDatasetFacet", fields=features)}
    inputs = [
        _dataset(namespace, f"{version.model}/{what}", f"sha256:{lineage[key]['sha256']}", facets)
        for key, what, facets in (("data", "sample", schema), ("source", "trained_file", {}))
        if key in lineage
    ]
    return {
        "eventType": "COMPLETE",
        "eventTime": rfc3339(version.created_at),
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
        "run": {"runId": str(uuid5(NAMESPACE_URL, identity)), "facets": _run(lineage)},
        "job": {"namespace": namespace, "name": f"push.{version.model}", "facets": _job(lineage)},
        "inputs": inputs,
        "outputs": [_dataset(namespace, version.model, f"{version.version} {version.model_digest}", {})],
    }


def _run(lineage: Mapping[str, Any]) -> dict[str, Any]:
    known = {
        **{f"parameter.{name}": value for name, value in lineage.get("parameters", {}).items()},
        **{f"metric.{name}": value for name, value in lineage.get("metrics", {}).items()},
        **{f"note.{name}": value for name, value in lineage.get("notes", {}).items()},
        **{f"library.{name}": value for name, value in lineage.get("libraries", {}).items()},
    }
    if "seed" in lineage:
        known["seed"] = lineage["seed"]
    if lockfile := lineage.get("lockfile"):
        known["lockfile"] = f"{lockfile['path']} sha256:{lockfile['sha256']}"
    if code := lineage.get("code"):
        known["code.dirty"] = str(code["dirty"]).lower()
    tags = [{"key": key, "value": str(value), "source": "keelway"} for key, value in known.items()]
    engine = _facet("1-1-1", "ProcessingEngineRunFacet", name="keelway", version=__version__)
    return {"processing_engine": engine} | ({"tags": _facet("1-0-0", "TagsRunFacet", tags=tags)} if tags else {})


def _job(lineage: Mapping[str, Any]) -> dict[str, Any]:
    facets = {
        "jobType": _facet(
            "2-0-4", "JobTypeJobFacet", processingType="BATCH", integration="KEELWAY", jobType="MODEL_PUSH"
        )
    }
    if code := lineage.get("code"):
        # Where the repository is stays unsaid. A Software Heritage identifier names a revision wherever it is.
        url = f"swh:1:rev:{code['revision']}"
        facets["sourceCodeLocation"] = _facet(
            "1-1-0", "SourceCodeLocationJobFacet", type="git", url=url, version=code["revision"]
        )
    return facets


def _dataset(namespace: str, name: str, version: str, facets: Mapping[str, Any]) -> dict[str, Any]:
    known = {"version": _facet("1-0-1", "DatasetVersionDatasetFacet", datasetVersion=version), **facets}
    return {"namespace": namespace, "name": name, "facets": known}


def _facet(edition: str, name: str, /, **fields: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}/{edition}/{name}.json#/$defs/{name}", **fields}
