"""``keelway diff``: two versions side by side, in the terminal, as JSON or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelway.cli.options import (
    AllowPythonOption,
    ArtifactsOption,
    ConfigOption,
    JsonOption,
    StoreOption,
    TrustTypeOption,
    open_blobs,
    open_registry,
    registry_settings,
    with_consent,
)
from keelway.cli.output import print_json, print_table

if TYPE_CHECKING:
    from keelway.artifacts.blobs import BlobStore
    from keelway.artifacts.statement import SignaturePolicy
    from keelway.publish.diff import Side
    from keelway.registry.store import Registry

HELP = """Show two versions side by side: what they promise, how they answer, and what is known of them.

With one version, it is compared with the champion. The first is the old one: what is said of the version number is for
whoever goes from it to the second, so that a rollback is looked at with the two exchanged. Predictions are compared on
the golden samples that their pushes kept, overall and by slice.

\b
Examples:
  keelway diff lead_scoring@1.1.0
  keelway diff lead_scoring@1.0.0 lead_scoring@1.1.0
  keelway diff lead_scoring@champion lead_scoring@challenger --html diff.html
  keelway diff lead_scoring@1.0.0 lead_scoring@1.1.0 --json
"""

#: Slices that the terminal shows; the page and the JSON document have them all.
SHOWN = 12


def diff(
    old: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The old version; with no other, the new one.")],
    new: Annotated[
        str | None, typer.Argument(metavar="NAME@VERSION", help="The new version; default: the champion is the old.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page, whole in one file, too.")
    ] = None,
    trust_type: TrustTypeOption = None,
    allow_python: AllowPythonOption = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.artifacts.statement import SignaturePolicy
    from keelway.contract.names import parse_reference
    from keelway.publish.diff import Consent
    from keelway.publish.diff import diff as compare

    settings = with_consent(registry_settings(config, store, artifacts), trust_type, allow_python)
    registry, blobs = open_registry(settings), open_blobs(settings)
    if new is None:
        name = parse_reference(old).name
        old, new = f"{name}@champion", old
    consent = Consent(frozenset(settings.runtime.allowed_python), frozenset(settings.runtime.trusted_types))
    signed = SignaturePolicy.of(settings.signing)
    before, after = (_side(registry, blobs, reference, signed) for reference in (old, new))
    document = compare(before, after, blobs, consent)
    if html is not None:
        _write_page(html, document)
    if json:
        print_json(document)
    else:
        _print(document)
        if html is not None:
            typer.echo(f"the page is in {html}")


def _side(registry: Registry, blobs: BlobStore, reference: str, signed: SignaturePolicy | None) -> Side:
    from keelway.contract.names import parse_reference
    from keelway.publish.diff import Side

    wanted = parse_reference(reference)
    # By its number an archived version can be looked at too.
    found = (
        registry.get(wanted.name, wanted.version) if wanted.version else registry.resolve(wanted.name, wanted.selector)
    )
    if signed is not None:  # it may be run
        signatures = registry.signatures(found.model, found.version)
        signed.check(found.model, found.version, found.model_digest, signatures)
    aliases = [alias.alias for alias in registry.aliases(found.model) if alias.version == found.version]
    return Side.of(found, registry.policy(found.model, found.version), aliases, blobs)


def _write_page(path: Path, document: dict[str, Any]) -> None:
    from keelway.cli.diff_page import page
    from keelway.errors import FailedPrecondition

    try:
        path.write_text(page(document), encoding="utf-8")
    except OSError as error:
        raise FailedPrecondition(
            f"{path.name} cannot be written: {error.strerror}", field="html", hint="name a file in a folder of yours"
        ) from None


def _print(document: dict[str, Any]) -> None:
    old, new = document["old"], document["new"]
    typer.echo(f"{_named(old)} → {_named(new)}: {document['part']}")
    for reason in document["reasons"]:
        typer.echo(f"  {reason['part']}: {reason['message']}")
    if not document["reasons"]:
        typer.echo("  nothing that a caller would notice")
    versions = (old["version"], new["version"]) if old["version"] != new["version"] else ("old", "new")
    for title, rows in (("signature", document["signature"]), ("declared", document["declared"])):
        if rows:
            cells = [(row.get("kind", ""), row["name"], *_both(row), mark(row)) for row in rows]
            print_table(title, ("", title, *versions, ""), cells)
    for sample in document["behaviour"]:
        _print_behaviour(sample, versions)
    rows = [(row["name"], *_both(row), mark(row)) for row in document["metadata"]]
    print_table("metadata", ("metadata", *versions, ""), rows)


def _print_behaviour(sample: dict[str, Any], versions: tuple[str, str]) -> None:
    typer.echo(f"on the golden sample of {sample['of']}, {sample['rows']} rows: {summary(sample)}")
    if not sample.get("slices"):
        return
    ordered = sorted(sample["slices"], key=lambda part: (-part[sample["predicts"]] / part["rows"], -part["rows"]))
    means = [f"mean of {sample['score']}, {version}" for version in versions] if sample["score"] else []
    rows = [
        (
            part["feature"],
            part["slice"],
            part["rows"],
            share(part, sample["predicts"]),
            *(number(value) for value in mean_of(part)),
        )
        for part in ordered[:SHOWN]
    ]
    print_table(f"slices of {sample['of']}", ("feature", "slice", "rows", differing(sample), *means), rows)
    if len(ordered) > SHOWN:
        typer.echo(f"  and {len(ordered) - SHOWN} slices that differ no more: see --html or --json")


def summary(sample: dict[str, Any]) -> str:
    """The answers to one golden sample in a line."""
    if "reason" in sample:
        return str(sample["reason"])
    found = sample["overall"]
    if not (found["differ"] or found["refused"]):
        return f"all answers are alike (worst difference {found['worst']:.1e}, allowed {found['tolerance']:g})"
    parts = [f"{found['differ']} differ"] if found["differ"] else []
    parts += [f"{found['labels']} in their label"] if found["labels"] else []
    parts += [f"{found['refused']} are refused by one of the two"] if found["refused"] else []
    return f"{', '.join(parts)} (worst difference {found['worst']:.1e}, allowed {found['tolerance']:g})"


def mark(row: dict[str, Any]) -> str:
    if not row["changed"]:
        return ""
    return "new" if row["old"] is None else "gone" if row["new"] is None else "changed"


def cell(value: Any) -> str:
    """A value of one side in a few words."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(_field(name, found) for name, found in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "none"
    return number(value) if isinstance(value, float) else str(value)


def differing(sample: dict[str, Any]) -> str:
    """What the rows of a slice that differ are: of a classifier those it puts into another class."""
    return "another class" if sample["predicts"] == "labels" else "another answer"


def share(part: dict[str, Any], what: str) -> str:
    return f"{part[what]} ({part[what] / part['rows']:.0%})"


def mean_of(part: dict[str, Any]) -> list[float | None]:
    return [part[name] for name in ("old_mean", "new_mean") if name in part]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _field(name: str, value: Any) -> str:
    if name == "datatype":
        return str(value)
    if name == "nullable":
        return "may be missing" if value else "not missing"
    return f"{name} {list(value) if name == 'shape' else cell(value)}"


def _both(row: dict[str, Any]) -> tuple[str, str]:
    return cell(row["old"]), cell(row["new"])


def _named(side: dict[str, Any]) -> str:
    aliases = f" ({', '.join(side['aliases'])})" if side["aliases"] else ""
    return f"{side['model']} {side['version']}{aliases}"
