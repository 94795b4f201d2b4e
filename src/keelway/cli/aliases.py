"""``keelway alias`` and ``rollback``: the names under which versions are served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keelway.cli.options import (
    ConfigOption,
    JsonOption,
    StoreOption,
    WhyOption,
    open_blobs,
    open_registry,
    registry_settings,
    whoami,
)
from keelway.cli.output import print_json, print_table

if TYPE_CHECKING:
    from keelway.config import Settings
    from keelway.registry.models import Alias
    from keelway.registry.store import Registry

HELP = "Set, list and remove the aliases of a model."

SET_HELP = """Point an alias to a version. The champion is moved by promote.

\b
Examples:
  keelway alias set lead_scoring@1.3.0 challenger
  keelway alias set lead_scoring@1.2.0 partner-x --why "they asked for it"
"""

LIST_HELP = """List the aliases of a model.

\b
Examples:
  keelway alias list lead_scoring
  keelway alias list lead_scoring --json
"""

REMOVE_HELP = """Remove an alias; the version it points to stays.

\b
Examples:
  keelway alias remove lead_scoring challenger
"""

ROLLBACK_HELP = """Move an alias back to where it was before its last move.

Running servers follow within a second or two. Said twice, it is where it was two moves ago: never back at the version
that was just left. What callers of that version will miss is said, and holds nothing up.

\b
Examples:
  keelway rollback lead_scoring --why "complaints about long calls"
  keelway rollback lead_scoring --alias challenger
"""

group = typer.Typer(name="alias", help=HELP, no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")]
AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="The alias.")]


@group.command("set", short_help="Point an alias to a version.", help=SET_HELP)
def set_(
    reference: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version to point to.")],
    alias: AliasArgument,
    why: WhyOption = "set on the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.contract.names import parse_reference
    from keelway.errors import InvalidInput
    from keelway.registry.models import CHAMPION

    wanted = parse_reference(reference)
    if wanted.version is None:
        raise InvalidInput("say which version", field="version", hint=f"keelway alias set {wanted.name}@1.2.0 {alias}")
    if alias == CHAMPION:
        raise InvalidInput("the champion is promoted", field="alias", hint=f"keelway promote {reference}")
    moved = open_registry(registry_settings(config, store, None)).set_alias(
        wanted.name, alias, wanted.version, who=whoami(), why=why
    )
    if json:
        print_json({"model": moved.model, "alias": moved.alias, "version": moved.version})
    else:
        typer.echo(f"{moved.alias} of {moved.model} is now {moved.version}")


@group.command("list", short_help="List the aliases of a model.", help=LIST_HELP)
def list_(name: NameArgument, store: StoreOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    known = open_registry(registry_settings(config, store, None)).aliases(name)
    if json:
        print_json({"model": name, "aliases": {alias.alias: alias.version for alias in known}})
    elif not known:
        typer.echo(f"no aliases; set one: keelway alias set {name}@VERSION ALIAS")
    else:
        print_table("", ("alias", "version"), [(alias.alias, alias.version) for alias in known])


@group.command("remove", short_help="Remove an alias.", help=REMOVE_HELP)
def remove(
    name: NameArgument,
    alias: AliasArgument,
    why: WhyOption = "removed on the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.errors import InvalidInput
    from keelway.registry.models import CHAMPION

    if alias == CHAMPION:  # the highest version would be served then, checked or not
        raise InvalidInput("the champion cannot be removed", field="alias", hint=f"keelway rollback {name}")
    open_registry(registry_settings(config, store, None)).remove_alias(name, alias, who=whoami(), why=why)
    if json:
        print_json({"model": name, "alias": alias, "version": None})
    else:
        typer.echo(f"{alias} of {name} is removed")


def rollback(
    name: NameArgument,
    alias: Annotated[str, typer.Option("--alias", help="The alias to move back.")] = "champion",
    why: WhyOption = "rolled back from the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    import msgspec

    settings = registry_settings(config, store, None)
    registry = open_registry(settings)
    left = {known.alias: known.version for known in registry.aliases(name)}.get(alias, msgspec.UNSET)
    moved = registry.rollback(name, alias, who=whoami(), why=why, expected_from=left)
    breaks = what_breaks(registry, settings, moved, str(left))
    if json:
        document = {"model": moved.model, "alias": moved.alias, "version": moved.version, "from": left}
        print_json({**document, "breaks": breaks})
    else:
        typer.echo(f"{moved.alias} of {moved.model} is back at {moved.version} (was {left})")
        tell(breaks, str(left))


def what_breaks(registry: Registry, settings: Settings, moved: Alias, left: str | None) -> list[str] | None:
    """What callers of version ``left`` miss now that the alias has ``moved`` down; ``None`` if that cannot be told."""
    from keelway.contract.semver import Version
    from keelway.errors import KeelwayError

    if left is None or Version.parse(moved.version) >= Version.parse(left):
        return []
    from keelway.publish.way_back import way_back  # reads manifests, which moves up the line do without

    try:
        found = way_back(registry, open_blobs(settings), moved.model, left, moved.version)
    except KeelwayError:  # the alias has moved, which is what counts
        return None
    return [reason.message for reason in found]


def tell(breaks: list[str] | None, left: str) -> None:
    """``breaks`` for people, beside what a command answers."""
    if breaks is None:
        typer.echo(f"· whether that breaks callers of {left} cannot be told: the artifact store was not read", err=True)
    for message in breaks or ():
        typer.echo(f"· callers of {left} beware: {message}", err=True)
