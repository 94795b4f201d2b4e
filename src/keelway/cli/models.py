"""``keelway models``, ``show`` and ``promote``: what is registered, and which version is the champion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelway.cli.options import (
    ArtifactsOption,
    CaCertificateOption,
    CertificateOption,
    ConfigOption,
    JsonOption,
    PrivateKeyOption,
    StoreOption,
    WhyOption,
    api_key,
    find_version,
    open_blobs,
    open_registry,
    registry_file,
    registry_settings,
    whoami,
)
from keelway.cli.output import print_json, print_table

if TYPE_CHECKING:
    from keelway.artifacts.blobs import BlobStore
    from keelway.artifacts.manifest import Manifest
    from keelway.cli.remote import Tls
    from keelway.config import Settings
    from keelway.registry.listing import ModelListing
    from keelway.registry.models import HistoryEntry, ModelVersion, VersionSignature
    from keelway.registry.store import Registry

MODELS_HELP = """List the registered models with their champions and numbers of versions.

\b
Examples:
  keelway models
  keelway models --json
"""

SHOW_HELP = """Show one version: its features, its files, how it was proved, and the history of its model.

\b
Examples:
  keelway show lead_scoring
  keelway show lead_scoring@1.2.0 --json
  keelway show "lead_scoring@^1.2"
  keelway show lead_scoring --measure
  keelway show lead_scoring --server http://127.0.0.1:8080
"""

PROMOTE_HELP = """Point an alias to a version; running servers follow within a second or two.

The champion takes a version whose last check has passed (keelway check), or --force, which the history records.

\b
Examples:
  keelway promote lead_scoring@1.3.0
  keelway promote lead_scoring@1.3.0 --alias challenger --why "try it in the shadow"
  keelway promote lead_scoring@1.3.0 --force --why "1.2.0 fails; nobody is there to check"
"""


def models(store: StoreOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    listed: list[dict[str, Any]] = [
        {"name": model.name, "versions": list(model.versions), "aliases": model.aliases}
        for model in _listing(registry_settings(config, store, None))
    ]
    if json:
        print_json({"models": listed})
    elif not listed:
        typer.echo("no models yet; push one: keelway push NAME FILE --sample data.parquet --target COLUMN")
    else:
        rows = [(m["name"], m["aliases"].get("champion"), len(m["versions"]), _others(m["aliases"])) for m in listed]
        print_table("", ("model", "champion", "versions", "other aliases"), rows)


def _listing(settings: Settings) -> Sequence[ModelListing]:
    from keelway.registry.listing import glance

    file = registry_file(settings)
    found = glance(file) if file else None
    return open_registry(settings).listing() if found is None else found


def show(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@RANGE|@ALIAS]", help="What to show.")],
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Load it here, and measure time against batch size as a server does.")
    ] = False,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Ask this server how it batches the model.")
    ] = None,
    ca_certificate: CaCertificateOption = None,
    certificate: CertificateOption = None,
    private_key: PrivateKeyOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.artifacts.materialise import read_manifest
    from keelway.cli.remote import Tls

    settings = registry_settings(config, store, artifacts)
    registry = open_registry(settings)
    version = find_version(registry, reference)
    blobs = open_blobs(settings)
    manifest = read_manifest(blobs, version.model_digest)
    history = registry.history(version.model, limit=10)
    aliases = [alias.alias for alias in registry.aliases(version.model) if alias.version == version.version]
    document = show_document(version, manifest, aliases, history)
    document["signatures"] = signature_documents(registry.signatures(version.model, version.version))
    if server:
        document["batching"] = _served_by(server, Tls(ca_certificate, certificate, private_key), version)
    elif measure:
        document["batching"] = _measured(settings, version)
    if manifest.runtime == "pipeline":
        document["steps"] = _steps(registry, blobs, manifest)
    if json:
        print_json(document)
    else:
        _print_version(document)


def promote(
    reference: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version to promote.")],
    alias: Annotated[str, typer.Option("--alias", help="The alias to move.")] = "champion",
    force: Annotated[bool, typer.Option("--force", help="Without a passing check; the history says so.")] = False,
    why: WhyOption = "promoted from the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.checks.promotion import promote as move
    from keelway.cli.aliases import tell, what_breaks
    from keelway.contract.names import parse_reference
    from keelway.errors import InvalidInput

    wanted = parse_reference(reference)
    if wanted.version is None:
        raise InvalidInput(
            "say which version", hint=f"keelway promote {wanted.name}@1.2.0; see keelway show {wanted.name}"
        )
    settings = registry_settings(config, store, None)
    registry = open_registry(settings)
    promoted = move(registry, wanted.name, wanted.version, alias=alias, force=force, who=whoami(), why=why)
    moved, before = promoted.alias, promoted.before
    breaks = what_breaks(registry, settings, moved, before)
    if json:
        document = {"model": moved.model, "alias": moved.alias, "version": moved.version, "from": before}
        print_json({**document, "evidence": promoted.evidence, "breaks": breaks})
        return
    typer.echo(f"{moved.alias} of {moved.model} is now {moved.version} (was {before or 'nothing'})")
    if (promoted.evidence or {}).get("forced"):
        typer.echo("· forced: no passing check stands behind it, and the history says so", err=True)
    tell(breaks, before or "nothing")


def show_document(
    version: ModelVersion, manifest: Manifest, aliases: list[str], history: tuple[HistoryEntry, ...]
) -> dict[str, Any]:
    """Everything ``show`` knows, as JSON values."""
    import msgspec

    from keelway.cli.history import described
    from keelway.clock import rfc3339

    return {
        "model": version.model,
        "version": version.version,
        "aliases": aliases,
        "model_digest": version.model_digest,
        "state": version.state,
        "created_at": rfc3339(version.created_at),
        "created_by": version.created_by,
        "runtime": manifest.runtime,
        "signature": msgspec.to_builtins(manifest.signature),
        "files": msgspec.to_builtins(manifest.files),
        "report": version.report,
        "metadata": version.metadata,
        "history": [
            {
                "at": rfc3339(entry.at),
                "who": entry.who,
                "action": entry.action,
                "change": described(entry),
                "why": entry.why,
                "evidence": entry.evidence,
            }
            for entry in history
        ],
    }


def signature_documents(signatures: Sequence[VersionSignature]) -> list[dict[str, str]]:
    """Signatures as JSON values; what is signed is written in docs/how-to/sign-models.md."""
    from keelway.artifacts.signing import to_text
    from keelway.clock import rfc3339

    return [
        {
            "key_id": known.key_id,
            "signature": to_text(known.signature),
            "created_at": rfc3339(known.created_at),
            "created_by": known.created_by,
        }
        for known in signatures
    ]


def _measured(settings: Settings, version: ModelVersion) -> dict[str, Any]:
    """What the warm-up of a server would choose on this machine, now."""
    from keelway.app import offline
    from keelway.artifacts.statement import SignaturePolicy
    from keelway.contract.names import Reference
    from keelway.hosting.registered import RegistrySource

    source = RegistrySource(
        open_registry(settings),
        open_blobs(settings),
        [Reference(version.model, version.version, None)],
        SignaturePolicy.of(settings.signing),
    )
    with offline(settings, source, measured=True) as (served, _):
        return dict(served.metadata["batching"])


def _served_by(url: str, tls: Tls, version: ModelVersion) -> dict[str, Any]:
    """What the server at ``url`` has measured and chosen. ``FailedPrecondition`` if another version answers there."""
    from keelway.cli.remote import Server
    from keelway.errors import FailedPrecondition

    served = Server(url, 10.0, tls, api_key(None)).get(f"/v1/models/{version.model}")
    if served["version"] != version.version:
        raise FailedPrecondition(
            f"that server answers with version {served['version']}",
            hint=f"keelway show {version.model}@{served['version']} --server {url}",
        )
    return dict(served["batching"])


def _print_batching(batching: dict[str, Any]) -> None:
    from keelway.batching.curve import in_words

    where = f"{batching['slots']} worker threads" if batching["slots"] else "the event loop"
    typer.echo(f"  runs on {where}; {in_words(batching)}")
    points = (batching.get("curve") or {}).get("points", [])
    rows = [(size, f"{seconds * 1000:.4g}", f"{size / max(seconds, 1e-9):,.0f}") for size, seconds in points]
    if rows:
        print_table("batching", ("rows in a run", "ms", "rows a second"), rows)


def _steps(registry: Registry, blobs: BlobStore, pipeline: Manifest) -> list[dict[str, Any]]:
    """The steps of a pipeline: those of its own with their options and files, models with the versions that have their
    digest."""
    import msgspec

    from keelway.artifacts.materialise import read_manifest
    from keelway.publish.steps import STEP_RUNTIMES, describe_step

    versions: dict[str, list[str]] = {}
    for model in registry.listing():
        for version, digest in model.versions.items():
            versions.setdefault(digest, []).append(f"{model.name}@{version}")
    steps = []
    for step in pipeline.options["steps"]:
        member = read_manifest(blobs, step["model_digest"])
        own = member.runtime in STEP_RUNTIMES
        known = {"options": member.options} if own else {"models": versions.get(step["model_digest"], [])}
        what = describe_step(member) if own else ", ".join(known["models"]) or f"a model of its own, {member.runtime}"
        files = msgspec.to_builtins(member.files)
        steps.append({**step, "runtime": member.runtime, "what": what, **known, "files": files})
    return steps


def _print_version(document: dict[str, Any]) -> None:
    from keelway.publish.bump import bump_lines
    from keelway.publish.lineage import lineage_lines
    from keelway.publish.report import report_lines

    aliases = f"  ({', '.join(document['aliases'])})" if document["aliases"] else ""
    typer.echo(f"{document['model']} {document['version']}{aliases}")
    typer.echo(f"  {document['model_digest']}")
    typer.echo(f"  pushed {document['created_at']} by {document['created_by']}; runs as {document['runtime']}")
    for signature in document["signatures"]:
        typer.echo(f"  signed by the key {signature['key_id']} at {signature['created_at']} (keelway verify says more)")
    metadata = document["metadata"]
    for line in (
        *bump_lines(metadata.get("bump", {})),
        *report_lines(document["report"]),
        *lineage_lines(metadata.get("lineage", {})),
    ):
        typer.echo(f"  {line}")
    if "batching" in document:
        _print_batching(document["batching"])
    signature = document["signature"]
    features = [
        (feature["name"], feature["datatype"], "may be missing" if feature.get("nullable") else "")
        for feature in signature["features"]
    ]
    print_table("features", ("feature", "datatype", ""), features)
    tensors = [("input", t["name"], t["datatype"], t["shape"]) for t in signature["inputs"]]
    tensors += [("output", t["name"], t["datatype"], t["shape"]) for t in signature["outputs"]]
    print_table("tensors", ("", "tensor", "datatype", "shape"), tensors)
    files = [(f["path"], f["size"], f["sha256"][:12]) for f in document["files"]]
    steps = document.get("steps", [])
    if steps:
        wires = [", ".join(f"{tensor} = {source}" for tensor, source in step["inputs"].items()) for step in steps]
        rows = [(step["name"], step["what"], wire) for step, wire in zip(steps, wires, strict=True)]
        print_table("steps", ("step", "", "inputs"), rows)
        files = [(f"{s['name']}: {f['path']}", f["size"], f["sha256"][:12]) for s in steps for f in s["files"]]
    print_table("files", ("file", "bytes", "sha256"), files)
    print_table(
        "history",
        ("at", "who", "change", "why"),
        [(h["at"], h["who"], h["change"], h["why"]) for h in document["history"]],
    )


def _others(aliases: dict[str, str]) -> str:
    return ", ".join(f"{alias}={version}" for alias, version in aliases.items() if alias != "champion")
