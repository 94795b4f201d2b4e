"""``keelway bom`` and ``lineage``: what the registry knows of a version, in the words of other tools."""

from __future__ import annotations

from typing import Annotated

import typer

from keelway.cli.options import (
    ArtifactsOption,
    ConfigOption,
    StoreOption,
    find_version,
    open_blobs,
    open_registry,
    registry_settings,
)
from keelway.cli.output import print_json

BOM_HELP = """Print the bill of materials of a version: a CycloneDX 1.6 document with a model card, as JSON.

\b
Examples:
  keelway bom lead_scoring@1.2.0 > lead_scoring.cdx.json
  keelway bom lead_scoring --store postgresql+psycopg://user@host/registry
"""

LINEAGE_HELP = """Print where a version comes from: the push as an OpenLineage run event, as JSON.

\b
Examples:
  keelway lineage lead_scoring@1.2.0
  keelway lineage lead_scoring --namespace registry.example | curl -H "Content-Type: application/json" -d @- URL
"""

ReferenceArgument = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="What to tell of.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print errors as JSON too; the document always is.")]


def bom(
    reference: ReferenceArgument,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.artifacts.materialise import read_manifests
    from keelway.publish.bom import bill_of_materials

    settings = registry_settings(config, store, artifacts)
    registry = open_registry(settings)
    version = find_version(registry, reference)
    members = read_manifests(open_blobs(settings), version.model_digest)
    manifest = members.pop(version.model_digest)
    signatures = registry.signatures(version.model, version.version)
    print_json(bill_of_materials(version, manifest, members, signatures))


def lineage(
    reference: ReferenceArgument,
    namespace: Annotated[str, typer.Option("--namespace", help="Where its names are unique.")] = "keelway",
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.artifacts.materialise import read_manifest
    from keelway.publish.openlineage import run_event

    settings = registry_settings(config, store, artifacts)
    version = find_version(open_registry(settings), reference)
    print_json(run_event(version, read_manifest(open_blobs(settings), version.model_digest), namespace))
