"""``keelway history``: who changed what, when and why; whether it still is what was written; signed heads of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelway.cli.options import ConfigOption, JsonOption, StoreOption, open_registry, registry_settings, signing_key
from keelway.cli.output import print_json, print_table

if TYPE_CHECKING:
    from keelway.artifacts.signing import SigningKey, TrustedKeys
    from keelway.registry.models import HistoryEntry
    from keelway.registry.store import Registry

HELP = """Show who changed what, when and why, the newest first; or check that nobody has changed what is told there.

--verify looks at the whole history, whatever NAME is, and ends with exit code 1 if an entry was changed, moved or
removed, or if anything in the registry is not what it tells. --anchor adds the signed end of the history to a file:
kept where whoever can write to the database cannot, it also shows a history that was cut off or written anew.

\b
Examples:
  keelway history lead_scoring
  keelway history --limit 100 --json
  keelway history --verify
  keelway history --anchor heads.jsonl --sign signing-key.pem
  keelway history --verify --against heads.jsonl --trusted signing-key.pub.pem
"""


def history(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of this model; default: of all.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The most entries to show.")] = 20,
    verify: Annotated[bool, typer.Option("--verify", help="Check the whole history instead of showing it.")] = False,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="FILE", help="With --verify: signed heads, as --anchor wrote.")
    ] = None,
    trusted: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted", metavar="KEY", help="Public key (PEM file) that signs heads. Default: signing.trusted_keys."
        ),
    ] = None,
    anchor: Annotated[
        Path | None, typer.Option("--anchor", metavar="FILE", help="Add the signed end of the history to this file.")
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            "--sign", metavar="KEYFILE", help="Private key (PEM) for --anchor. Default: signing.key_file, signing.key."
        ),
    ] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.artifacts.signing import TrustedKeys
    from keelway.errors import InvalidInput

    settings = registry_settings(config, store, None)
    given, option = (trusted, "--trusted") if trusted else (settings.signing.trusted_keys, "signing.trusted_keys")
    if against is not None and not (verify and given):
        raise InvalidInput("anchors are checked by signatures", field="against", hint="--verify --trusted KEY")
    key = signing_key(settings, sign, "--sign") if anchor is not None else None
    if anchor is not None and key is None:
        raise InvalidInput("an anchor has to be signed", field="sign", hint="name a private key: --sign KEYFILE")
    registry = open_registry(settings)
    if verify:
        _verify(registry, name, against, TrustedKeys.of(given, option) if against is not None else None, json)
    if anchor is not None and key is not None:
        _anchor(registry, anchor, key, json)
    if not verify and anchor is None:
        _show(registry.history(name, limit), json)


def described(entry: HistoryEntry) -> str:
    """What an entry says has changed, in a few words."""
    evidence = entry.evidence if isinstance(entry.evidence, dict) else {}
    if entry.action == "alias":
        how = " (rolled back)" if evidence.get("rollback") else " (forced)" if evidence.get("forced") else ""
        return f"{entry.alias}: {entry.from_version or 'none'} → {entry.to_version or 'none'}{how}"
    if entry.action == "check":
        return f"check {entry.version}: {'passed' if evidence.get('passed') else 'not passed'}"
    if entry.action == "gc":
        return f"removed {evidence.get('blobs', 0):,} files, {evidence.get('bytes', 0):,} bytes"
    subject = entry.version or evidence.get("key") or ""
    return f"{entry.action} {subject}".rstrip()


def _verify(
    registry: Registry, name: str | None, against: Path | None, trusted: TrustedKeys | None, json: bool
) -> None:
    from keelway.registry.anchors import read

    if name is not None:
        registry.history(name, 1)  # a model that is not there is a mistake, not a sound history
    anchors = read(against) if against is not None else ()
    audit = registry.audit(anchors, trusted)
    findings = [{"entry": finding.id, "what": finding.what} for finding in audit.findings]
    if json:
        document = {"sound": not findings, "entries": audit.entries, "head": audit.head, "anchors": len(anchors)}
        print_json({**document, "findings": findings})
    elif not findings:
        beside = f", and {len(anchors)} anchors agree" if anchors else ""
        typer.echo(f"the history is as it was written: {audit.entries} entries{beside}")
        typer.echo(f"  it ends with {audit.head}")
    else:
        print_table("findings", ("entry", "what"), [(f["entry"], f["what"]) for f in findings])
    if findings:
        typer.echo("keelway: the history is not as it was written · keep a copy of the database first", err=True)
        raise typer.Exit(1)


def _anchor(registry: Registry, path: Path, key: SigningKey, json: bool) -> None:
    import msgspec

    from keelway.registry.anchors import append

    anchor = append(path, registry.head(), key)
    if json:
        print_json(msgspec.to_builtins(anchor))
    else:
        typer.echo(f"anchored {anchor.head.entries} entries, which end with {anchor.head.hash}; key {anchor.key_id}")


def _show(entries: tuple[HistoryEntry, ...], json: bool) -> None:
    import msgspec

    from keelway.clock import rfc3339

    if json:
        listed: list[dict[str, Any]] = [{**msgspec.to_builtins(e), "at": rfc3339(e.at)} for e in entries]
        print_json({"history": listed})
    elif not entries:
        typer.echo("nothing has happened yet")
    else:
        rows = [(e.id, rfc3339(e.at), e.who, e.model, described(e), e.why) for e in entries]
        print_table("", ("entry", "at", "who", "model", "change", "why"), rows)
