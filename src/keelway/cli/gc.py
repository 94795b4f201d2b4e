"""``keelway gc``: files that nothing refers to leave the artifact store."""

from __future__ import annotations

from typing import Annotated

import typer

from keelway.cli.options import (
    ArtifactsOption,
    ConfigOption,
    JsonOption,
    StoreOption,
    WhyOption,
    open_blobs,
    open_registry,
    registry_settings,
    whoami,
)
from keelway.cli.output import print_json

HELP = """Remove from the artifact store what no version refers to: files of pushes that did not end, for example.

Never removed is what an available version refers to, through a pipeline too, and what is newer than --grace. It is safe
beside pushes, promotions and servers. With --archived, archived versions lose their files: they cannot be restored then
until they are pushed again.

\b
Examples:
  keelway gc --dry-run
  keelway gc --archived --why "the disk is full"
  keelway gc --grace 7d --json
"""


def gc(
    archived: Annotated[bool, typer.Option("--archived", help="Remove the files of archived versions too.")] = False,
    grace: Annotated[str, typer.Option("--grace", metavar="TIME", help="Keep what is newer: 7d, 12h, 30m.")] = "1d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    why: WhyOption = "collected from the command line",
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    import msgspec

    from keelway.cli.keys import seconds

    settings = registry_settings(config, store, artifacts)
    done = open_registry(settings).collection.run(
        open_blobs(settings),
        grace=seconds(grace, "grace"),
        archived=archived,
        dry_run=dry_run,
        who=whoami(),
        why=why,
    )
    if json:
        print_json({"dry_run": dry_run, **msgspec.to_builtins(done)})
        return
    would = "would be " if dry_run else ""
    for version in done.versions:
        typer.echo(f"{version} {would}without its files")
    typer.echo(f"{done.blobs:,} files with {done.bytes:,} bytes {would}removed")
    typer.echo(f"{done.kept_blobs:,} files with {done.kept_bytes:,} bytes stay")
