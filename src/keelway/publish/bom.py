"""The bill of materials of a version, in CycloneDX 1.6: the model with its card, its files, its libraries and its data.

Source: https://cyclonedx.org/docs/1.6/json/. Everything in it is what the registry knows; the same version gives the
same document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from keelway import __version__
from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.artifacts.signing import Signature
from keelway.clock import rfc3339
from keelway.registry.models import ModelVersion

SPEC_VERSION: Final = "1.6"

#: CycloneDX has no words of its own for what keelway calls the other task.
_TASKS: Final = {"classification": "classification", "regression": "regression"}


def bill_of_materials(
    version: ModelVersion, manifest: Manifest, members: Mapping[str, Manifest], signatures: Sequence[Signature]
) -> dict[str, Any]:
    """The document, as JSON values. ``members`` are the manifests of a pipeline's steps by their digests, at any depth.
    ``signatures`` are named, not verified."""
    lineage = version.metadata.get("lineage", {})
    model = {
        **_model(f"{version.model}@{version.version}", version.model_digest, manifest),
        "name": version.model,
        "version": version.version,
        "modelCard": _card(manifest, lineage),
        "properties": _properties(version, lineage, signatures),
    }
    libraries = [_library(name, number) for name, number in lineage.get("libraries", {}).items()]
    data = [_data(key, lineage[key]) for key in ("data", "source") if key in lineage]
    steps = [{**_model(digest, digest, member), "modelCard": _card(member, {})} for digest, member in members.items()]
    dependencies = [
        {
            "ref": version.model_digest,
            "dependsOn": [*manifest.members, *(component["bom-ref"] for component in (*libraries, *data))],
        },
        *({"ref": digest, "dependsOn": list(member.members)} for digest, member in members.items()),
    ]
    identity = f"keelway:{version.model}@{version.version}:{version.model_digest}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": rfc3339(version.created_at),
            "tools": {"components": [{"type": "application", "name": "keelway", "version": __version__}]},
            "component": model,
        },
        "components": [*steps, *libraries, *data],
        "dependencies": [{**entry, "dependsOn": sorted(set(entry["dependsOn"]))} for entry in dependencies],
    }


def _model(name: str, digest: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": digest,
        "name": name,
        "hashes": _hashes(digest.removeprefix("sha256:")),
        "components": [_file(digest, entry) for entry in manifest.files],
    }


def _file(owner: str, entry: FileEntry) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"{owner}/{entry.path}",
        "name": entry.path,
        "hashes": _hashes(entry.sha256),
        "properties": [{"name": "keelway:size", "value": str(entry.size)}],
    }


def _card(manifest: Manifest, lineage: Mapping[str, Any]) -> dict[str, Any]:
    signature = manifest.signature
    parameters: dict[str, Any] = {
        "inputs": [{"format": f"{spec.name}: {spec.datatype} {list(spec.shape)}"} for spec in signature.inputs],
        "outputs": [{"format": f"{spec.name}: {spec.datatype} {list(spec.shape)}"} for spec in signature.outputs],
    }
    if signature.task in _TASKS:
        parameters["task"] = _TASKS[signature.task]
    if "data" in lineage:
        parameters["datasets"] = [{"ref": "data"}]
    card: dict[str, Any] = {"modelParameters": parameters}
    if metrics := lineage.get("metrics"):
        figures = [{"type": name, "value": str(value)} for name, value in metrics.items()]
        card["quantitativeAnalysis"] = {"performanceMetrics": figures}
    card["properties"] = [{"name": "keelway:runtime", "value": manifest.runtime}]
    return card


def _properties(
    version: ModelVersion, lineage: Mapping[str, Any], signatures: Sequence[Signature]
) -> list[dict[str, str]]:
    code, lockfile = lineage.get("code", {}), lineage.get("lockfile", {})
    known = {
        "keelway:created_by": version.created_by,
        "keelway:code:revision": code.get("revision"),
        "keelway:code:dirty": None if not code else str(code["dirty"]).lower(),
        "keelway:lockfile": None if not lockfile else f"{lockfile['path']} sha256:{lockfile['sha256']}",
        "keelway:seed": None if "seed" not in lineage else str(lineage["seed"]),
        **{f"keelway:parameter:{name}": str(value) for name, value in lineage.get("parameters", {}).items()},
        **{f"keelway:note:{name}": str(value) for name, value in lineage.get("notes", {}).items()},
    }
    properties = [{"name": name, "value": value} for name, value in known.items() if value is not None]
    return properties + [{"name": "keelway:signed_by", "value": known.key_id} for known in signatures]


def _library(name: str, number: str) -> dict[str, Any]:
    if name == "python":
        return {"type": "platform", "bom-ref": "python", "name": "python", "version": number}
    purl = f"pkg:pypi/{name}@{number}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": number, "purl": purl}


def _data(key: str, known: Mapping[str, Any]) -> dict[str, Any]:
    described = {"data": ("sample", "dataset"), "source": ("trained file", "other")}
    name, kind = described[key]
    return {
        "type": "data",
        "bom-ref": key,
        "name": name,
        "hashes": _hashes(known["sha256"]),
        "data": [
            {
                "type": kind,
                "name": name,
                "contents": {"properties": [{"name": "keelway:size", "value": str(known["size"])}]},
            }
        ],
    }


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
