"""``keelway archive`` and ``restore``: versions taken out of use, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keelway.cli.options import (
    ConfigOption,
    JsonOption,
    StoreOption,
    WhyOption,
    open_registry,
    registry_settings,
    whoami,
)
from keelway.cli.output import print_json

if TYPE_CHECKING:
    from keelway.registry.models import ModelVersion

ARCHIVE_HELP = """Take a version out of use: it is not served any more and takes no alias. Its number stays taken.

Its files stay until keelway gc --archived, and so long keelway restore brings it back. While an alias points to a
version, it is not archived.

\b
Examples:
  keelway archive lead_scoring@1.0.0 --why "trained on wrong data"
"""

RESTORE_HELP = """Make an archived version available again.

\b
Examples:
  keelway restore lead_scoring@1.0.0
"""

ReferenceArgument = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version.")]


def archive(
    reference: ReferenceArgument,
    why: WhyOption = "archived from the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    name, version = _exact(reference, "archive")
    _say(open_registry(registry_settings(config, store, None)).archive(name, version, who=whoami(), why=why), json)


def restore(
    reference: ReferenceArgument,
    why: WhyOption = "restored from the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    name, version = _exact(reference, "restore")
    _say(open_registry(registry_settings(config, store, None)).restore(name, version, who=whoami(), why=why), json)


def _exact(reference: str, command: str) -> tuple[str, str]:
    from keelway.contract.names import parse_reference
    from keelway.errors import InvalidInput

    wanted = parse_reference(reference)
    if wanted.version is None:
        raise InvalidInput("say which version", field="version", hint=f"keelway {command} {wanted.name}@1.2.0")
    return wanted.name, wanted.version


def _say(version: ModelVersion, json: bool) -> None:
    if json:
        print_json({"model": version.model, "version": version.version, "state": version.state})
    else:
        typer.echo(f"{version.model} {version.version} is {version.state}")
